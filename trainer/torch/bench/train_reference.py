"""Compares training with that of the system n-net comes from: crops per second, FLOP/s and peak memory.

Each way to train has a process of its own, in which loop.train runs as it trains, then with one batch
from memory again and again (the network alone); at last its loader makes batches for nobody (the
loader alone). The slower of the two is the limit. The source's way is re-created here: float32, the
whole scan read from its file for each crop (Source). Its files mostly come from the memory that the
operating system keeps them in: on a data set larger than that it is slower than measured.
"""

from __future__ import annotations

import argparse
import dataclasses
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import repeat
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import loop
import n_loss
import settings
import sources
from hilum_net import HilumNet
from n_net import MULTIPLE, STRIDE, NNetwork, places
from n_samples import Crops, read
from settings import Detector, NDetector, Refused
from train_detector import Detection
from train_n_net import NDetection

PEAKS = {"A100": 312e12, "H100 80GB HBM3": 989e12, "H200": 989e12}  # bf16, dense, by the makers' data sheets
OTHER = ("NVL", "PCIe", "MIG")  # in the names of slower ones
SIDE, PEAK_SECONDS = 2048, 2.0  # of the matrices that a CPU's peak is measured with, and how long
FOR_EACH = 6  # FLOPs of training for each multiplication of the forward pass: three passes, two operations
LARGE_BATCH = {"cuda": 64, "cpu": 2}  # of hilum-net's larger crops: as LUNA16.md has it, and one that ends
CPU_CROP = 64  # of n-net: with the 128 of its source two cores take a minute or more for one
LOOK = 0.5  # seconds between two looks at the memory; each takes some 20 ms from what is measured
MEASURES = ("training", "network alone", "loader alone")


class SourceCrops(Crops):
    """n-net's crops as the system makes them that it comes from.

    The whole scan is read from its file for each crop, which is cut, padded, scaled by SciPy and mirrored
    by NumPy, and leaves its process as float32. Where crops lie and their targets are ours; there the
    targets are made by loops in Python, so that its own loader is slower than this one.
    """

    def sample(self, index: int) -> tuple[Tensor, Tensor, Tensor]:
        rng, s, of = np.random.default_rng([self.s.loop.seed, index]), self.s, self.s.samples
        k, n = self.rows[rng.integers(len(self.rows))]
        anywhere, scale = rng.random() < of.random, 1.0
        if anywhere:
            k = int(rng.integers(len(self.scans)))
        scan = dataclasses.replace(self.scans[k], voxels=np.load(self.scans[k].voxels.filename)[0])
        target = None if anywhere else scan.nodules[n]
        if target is not None:
            lo, hi = (limit / target[3] for limit in of.diameters)
            scale = float(rng.uniform(min(max(lo, of.scale[0]), 1), max(min(hi, of.scale[1]), 1)))
        side = int(of.crop / scale)
        start = np.array([self.start(rng, axis, scan, target, side) for axis in range(3)])
        lo, hi = np.maximum(start, 0), np.minimum(start + side, scan.voxels.shape)
        cube = scan.voxels[tuple(slice(a, b) for a, b in zip(lo, hi, strict=True))]
        cube = np.pad(cube, np.stack([lo - start, start + side - hi], 1), constant_values=self.pad)
        scale = of.crop / side
        if side != of.crop:
            cube = ndimage.zoom(cube, scale, order=1)
        cells = (of.crop // STRIDE,) * 3
        shape = torch.tensor(scan.voxels.shape)
        where = places(torch.from_numpy(start), torch.tensor([side] * 3), cells, shape).numpy()
        boxes = np.concatenate([(scan.nodules[:, :3] - start + 0.5) * scale - 0.5, scan.nodules[:, 3:] * scale], 1)
        for axis in (1, 2):
            if of.flip and rng.random() < 0.5:
                cube, where = np.flip(cube, axis), np.flip(where, axis + 1)
                boxes[:, axis] = of.crop - 1 - boxes[:, axis]
        aim = None if target is None else boxes[n]
        voxels = (np.ascontiguousarray(cube[None]).astype(np.float32) - 128) / 128
        found = n_loss.targets(rng, aim, boxes, cells[0], s.net.anchors, s.loss)
        return torch.from_numpy(voxels), torch.from_numpy(np.ascontiguousarray(where)), found


class SourceDetection(NDetection):
    """The task of n-net with crops that are scaled already."""

    def loss(self, net: nn.Module, batch: tuple[Tensor, ...]) -> tuple[Tensor, dict[str, Tensor]]:
        voxels, place, wanted, _ = batch
        return n_loss.n_loss(net(voxels, place), wanted, self.s.loss)


def source(s: NDetector, folders: list[Path]) -> loop.Task:
    """Return the task of n-net as the source system runs it."""
    torch.backends.cudnn.allow_tf32 = False  # float32 was float32 then
    torch.backends.cudnn.benchmark = True
    scans, prepare = read(prepared(folders), "", mapped=True)
    return SourceDetection(s, SourceCrops(scans, s, int(prepare["pad_value"])), prepare)


def baseline(s: NDetector, folders: list[Path]) -> loop.Task:
    """Return the task of n-net as train_n_net.py runs it."""
    scans, prepare = read(prepared(folders), "")
    return NDetection(s, Crops(scans, s, int(prepare["pad_value"])), prepare)


def detection(s: Detector, folders: list[Path]) -> loop.Task:
    """Return the task of hilum-net as train_detector.py runs it."""
    return Detection(s, sources.read(folders, s.compose))


def prepared(folders: list[Path]) -> list[Path]:
    """Return the folders that are not of nodules alone, which n-net has no use for."""
    return [f for f in folders if (f / "manifest.json").exists()] or folders


@dataclass
class Way:
    """One way to train."""

    name: str
    task: Callable[[Any, list[Path]], loop.Task]
    settings: Detector | NDetector
    crop: int

    @property
    def precision(self) -> str:
        """How the network computes, in the words of the table."""
        if self.settings.loop.bf16:
            return "bf16"
        return "TF32" if torch.cuda.is_available() and self.task is not source else "fp32"

    def macs(self) -> float:
        """Count the multiplications of a crop's forward pass in the network."""
        shapes = [(1, 1, *(self.crop,) * 3)]
        net: nn.Module = HilumNet(self.settings.net) if self.task is detection else NNetwork(self.settings.net)
        if self.task is not detection:
            shapes.append((1, 3, *(self.crop // STRIDE,) * 3))
        with FlopCounterMode(display=False) as count:
            net.to("meta")(*(torch.zeros(shape, device="meta") for shape in shapes))
        return count.get_total_flops() / 2


@dataclass
class Measure:
    """What one measurement of a way found."""

    crops: float  # a second
    steps: int


class Clock:
    """Times the steps of a loop that its batches go through, and ends them."""

    def __init__(self, warm: int, least: int, seconds: float, hurry: bool) -> None:
        """Count after `warm` steps, at least so many and so long; hurry: a first step of so long is enough."""
        self.warm, self.least, self.seconds, self.hurry = warm, least, seconds, hurry
        self.steps, self.rate = 0, 0.0  # counted; a second

    def __call__(self, feed: Iterator[list[Tensor]]) -> Iterator[list[Tensor]]:
        begin = time.perf_counter()
        for step, batch in enumerate(feed, 1):
            yield batch
            spent = time.perf_counter() - begin  # asked for the next: this one is done
            if step == 1 and self.hurry and spent >= self.seconds:
                self.warm, self.least = 0, 1
            if step == self.warm:
                begin = time.perf_counter()
            elif step - self.warm >= self.least and spent >= self.seconds:
                self.steps = step - self.warm
                self.rate = self.steps / spent
                return


def measure(way: Way, folders: list[Path], seconds: float, out: Connection) -> None:
    """Send the measures of a way and the GPU's peak memory in bytes, or why there are none."""
    try:
        task, at = way.task(way.settings, folders), loop.place()
        s = dataclasses.replace(way.settings.loop, steps=10**9, log_every=10**9, save_every=10**9)
        if s.threads:
            torch.set_num_threads(s.threads)
        turns = max(1, s.workers)  # that many batches come at a time

        def alone(task: loop.Task, s: settings.Loop, start: int, stop: int, at: loop.Place) -> Iterator[list[Tensor]]:
            one = next(loop.batches(task, dataclasses.replace(s, workers=0), start, stop, at))
            return repeat(one)

        found = []
        for feed in (loop.batches, alone, None):
            clock = Clock(turns + 1, 2 * turns, seconds, at.device.type == "cpu" and feed is not None)
            if feed is None:
                for _ in clock(loop.batches(task, s, 0, s.steps, at)):
                    pass
            else:
                with tempfile.TemporaryDirectory() as run:
                    if code := loop.train(task, s, Path(run), feed=lambda *a, c=clock, f=feed: c(f(*a))):
                        sys.exit(code)
            found.append(Measure(clock.rate * s.batch, clock.steps))
        out.send((found, torch.cuda.max_memory_allocated() if at.device.type == "cuda" else 0))
    except Refused as err:
        out.send(str(err))


def watch(way: Way, folders: list[Path], seconds: float) -> tuple[list[Measure], int, int]:
    """Measure a way in a process of its own; return what was found, its peak memory and the GPU's in bytes."""
    context = multiprocessing.get_context("spawn")  # forked from one with PyTorch, some stalled for a minute
    mine, theirs = context.Pipe(duplex=False)
    process = context.Process(target=measure, args=(way, folders, seconds, theirs))
    process.start()
    theirs.close()
    peak = 0
    while process.is_alive():
        peak = max(peak, memory(process.pid))
        process.join(LOOK)
    try:
        found = mine.recv()
    except EOFError:
        raise Refused(
            f"{way.name}: its process ended with status {process.exitcode} (-9: not enough memory?); "
            "try a smaller --batch"
        ) from None
    if isinstance(found, str):
        raise Refused(f"{way.name}: {found}")
    return found[0], peak, found[1]


def memory(pid: int) -> int:
    """Return the bytes that a process and its descendants have in memory; what they share counts once."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
        except OSError:  # it has just ended
            continue
    total, family = 0, [pid]
    for one in family:
        family += [child for child, parent in parents.items() if parent == one]
        try:
            text = Path(f"/proc/{one}/smaps_rollup").read_text()
        except OSError:
            continue
        total += sum(int(line.split()[1]) << 10 for line in text.splitlines() if line.startswith("Pss:"))
    return total


def processor() -> str:
    """Return the name of the CPU."""
    lines = (line.partition(":") for line in Path("/proc/cpuinfo").read_text().splitlines())
    return next((value.strip() for key, _, value in lines if key.strip() == "model name"), "CPU")


def machine(seconds: float) -> tuple[str, float]:
    """Describe the device and its peak; return that in FLOP/s too, 0 where it is not known."""
    if torch.cuda.is_available():
        name = torch.cuda.get_device_name()
        peak = next((p for key, p in PEAKS.items() if key in name and not any(o in name for o in OTHER)), 0.0)
        said = f"its bf16 peak, {peak / 1e12:.0f} TFLOP/s dense" if peak else "a peak that is not known here"
        return f"{name}, {said}", peak
    a, best = torch.rand(SIDE, SIDE), float("inf")
    begin = time.perf_counter()
    while best == float("inf") or time.perf_counter() - begin < seconds:
        start = time.perf_counter()
        torch.mm(a, a)
        best = min(best, time.perf_counter() - start)
    peak = 2 * SIDE**3 / best
    name, threads = processor(), torch.get_num_threads()
    return f"{name}, peak as measured, {peak / 1e9:.0f} GFLOP/s (float32 matrices, {threads} threads)", peak


def ways(a: argparse.Namespace) -> list[Way]:
    """Return what is compared."""
    cuda, out = torch.cuda.is_available(), []
    for name, task in (("n-net, as its source", source), ("n-net, our loader", baseline)):
        s = settings.NDetector()
        s = settings.tiny_n_net(s) if a.tiny else s
        s.loop.batch = a.batch or (s.loop.batch if cuda or a.tiny else 1)
        s.samples.crop = a.crop or (s.samples.crop if cuda or a.tiny else CPU_CROP)
        out.append(Way(name, task, s, s.samples.crop))
    for large in (False,) if a.tiny else (False, True):
        s = settings.Detector()
        s = settings.tiny(s) if a.tiny else s
        s.loop.batch = a.batch or (LARGE_BATCH[loop.place().device.type] if large else s.loop.batch)
        s.loop.bf16 &= loop.computes_bf16(loop.place().device)
        s.compose.crop = s.compose.crop * 3 // 2 if large else s.compose.crop
        out.append(Way("hilum-net", detection, s, s.compose.crop))
    for way in out:
        way.settings.loop.workers = a.workers
    return out


def simulated(hilum: Path, folder: Path) -> list[Path]:
    """Make a small set of scans and prepare it."""
    made, ready = folder / "set", folder / "prepared"
    tables = ["--annotations", made / "annotations.csv"]
    for call in (
        ["phantom", "--luna", made, "--scans", 2, "--rows", 128, "--slices", 120, "--seed", 3],
        ["train", "prepare", "--no-mask", "--out", ready, *tables, made],
    ):
        try:
            done = subprocess.run([str(c) for c in (hilum, *call)], capture_output=True, text=True)
        except OSError:
            raise Refused(f"there is no program {hilum}: run make build, or name one with --hilum") from None
        if done.returncode:
            raise Refused(f"hilum {call[0]} failed: {(done.stderr.strip().splitlines() or ['it said nothing'])[-1]}")
    return [ready]


def table(a: argparse.Namespace, folders: list[Path]) -> None:
    """Measure and print."""
    device, peak = machine(min(a.seconds, PEAK_SECONDS))
    data = "the data named" if a.data else "2 simulated scans"
    print(
        f"{device}\n{os.cpu_count()} processors, load {os.getloadavg()[0]:.1f} before; {data}; {a.workers} loader "
        f"processes; PyTorch {torch.__version__}; FLOPs are {FOR_EACH} for each multiplication of the forward pass\n"
        f"\n{'':<24}{'device':>7}{'type':>6}{'crop':>6}{'batch':>6}{'GMAC':>8}{'steps':>7}{'crops/s':>10}{'GFLOP/s':>10}"
        f"{'of peak':>9}{'RAM':>11}{'GPU':>11}",
        flush=True,
    )
    kind = loop.place().device.type
    for way in ways(a):
        macs = way.macs()
        found, ram, gpu = watch(way, folders, a.seconds)
        used = f"{ram / 2**20:>7.0f} MiB" + (f"{gpu / 2**20:>7.0f} MiB" if gpu else "")
        about = f"{kind:>7}{way.precision:>6}{way.crop:>5}³{way.settings.loop.batch:>6}{macs / 1e9:>8.2f}"
        for k, (label, m) in enumerate(zip(MEASURES, found, strict=True)):
            flops = FOR_EACH * macs * m.crops
            line = f"{f'  {label}' if k else way.name:<24}{about}{m.steps:>7}{m.crops:>10.3g}"
            if label != MEASURES[-1]:
                line += f"{flops / 1e9:>10.4g}" + (f"{flops / peak:>9.1%}" if peak else f"{'':>9}")
            print(line if k else f"{line}{used}", flush=True)


def main() -> int:
    """Run the program."""
    cuda = torch.cuda.is_available()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", nargs="*", type=Path, help="as of train_detector.py (default: simulated scans)")
    parser.add_argument("--batch", type=int, default=0, help="crops of a step of every network (default: n-net 4, "
                        "on a CPU 1; hilum-net 8, of the larger crops 64, on a CPU 2)")  # fmt: skip
    parser.add_argument("--crop", type=int, default=0, help=f"side of n-net's (default: 128, on a CPU {CPU_CROP})")
    parser.add_argument("--workers", type=int, default=max(1, (os.cpu_count() or 1) - 1), help="processes of a loader")
    parser.add_argument("--seconds", type=float, default=20.0 if cuda else 5.0, help="least time of a measurement")
    parser.add_argument("--hilum", type=Path, default=Path("bin/hilum"), help="program that simulates scans")
    parser.add_argument("--tiny", action="store_true", help="settings of the tests")
    a = parser.parse_args()
    try:
        for name, least in (("batch", 0), ("workers", 1), ("seconds", 0)):
            if getattr(a, name) < least:
                raise Refused(f"--{name} {getattr(a, name)} is less than {least}")
        if a.crop % MULTIPLE or a.crop < 0:
            raise Refused(f"--crop {a.crop} is not a multiple of {MULTIPLE}")
        with tempfile.TemporaryDirectory() as folder:
            table(a, a.data or simulated(a.hilum, Path(folder)))
    except Refused as err:
        print(f"error: {err}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
