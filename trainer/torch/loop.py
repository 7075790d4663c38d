"""The loop that trains every network here.

One task (Task below) says what the network, the samples and the loss are; the loop does the rest:
AdamW with a cosine, an average of the weights (EMA), bf16 where it pays, several devices by torchrun,
checkpoints, curves. Sample i of a run depends on the seed and i alone, so a run that was killed goes
on from its last checkpoint as if nothing had happened, and the number of devices does not matter.

A folder of a run holds checkpoint.pt (the newest, replaced as a whole), log.txt, log.csv and
TensorBoard's events.
"""

from __future__ import annotations

import copy
import csv
import math
import os
import signal
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from settings import Loop, Refused

FORMAT = "hilum-checkpoint-1"
CHECKPOINT = "checkpoint.pt"
SLIPS = 10  # steps in a row whose loss or gradient may be no number


class Task(Protocol):
    """What is trained."""

    name: str  # of the network; a checkpoint of another is refused
    settings: dict[str, Any]  # plain values, kept in the checkpoint

    def model(self) -> nn.Module:
        """Return the network with its first weights."""

    def sample(self, index: int) -> tuple[Tensor, ...]:
        """Return sample `index`, the same each time; the loop stacks those of a batch."""

    def loss(self, net: nn.Module, batch: tuple[Tensor, ...]) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss of a batch and sums for the log line."""

    def row(self, sums: dict[str, float], steps: int) -> dict[str, float]:
        """Return the columns of a log line from the sums over so many steps."""


class Samples(Dataset):
    """Samples of a task from `start` on, those of this rank only."""

    def __init__(self, task: Task, start: int, stop: int, batch: int, rank: int, world: int) -> None:
        self.task, self.share, self.batch = task, batch // world, batch
        self.first, self.steps = start * batch + rank * self.share, stop - start

    def __len__(self) -> int:
        return self.steps * self.share

    def __getitem__(self, k: int) -> tuple[Tensor, ...]:
        step, at = divmod(k, self.share)
        return self.task.sample(self.first + step * self.batch + at)


class Stop:
    """Tells that a signal asked the run to end."""

    def __init__(self) -> None:
        self.signal = 0
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self.take)

    def take(self, number: int, _: FrameType | None) -> None:
        if self.signal:  # asked twice: at once
            sys.exit(128 + number)
        self.signal = number


@dataclass
class Place:
    """Where this process computes, and which of how many it is."""

    device: torch.device
    rank: int
    world: int


def place() -> Place:
    """Find the device; under torchrun join the other processes."""
    world, rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
    cuda = torch.cuda.is_available()
    if cuda:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    if world > 1 and not dist.is_initialized():
        dist.init_process_group("nccl" if cuda else "gloo")
    return Place(torch.device("cuda" if cuda else "cpu"), rank, world)


def computes_bf16(device: torch.device) -> bool:
    """Tell whether a device has instructions for bf16.

    A CPU without them takes twenty times as long in bf16 as in fp32 (AVX2, hilum-net).
    """
    if device.type != "cpu":
        return True
    return torch.ops.mkldnn._is_mkldnn_bf16_supported()  # PyTorch has no public name for it


def agree(at: Place, share: float, asked: int) -> tuple[float, int]:
    """Return the largest of all processes' values, so that all stop at the same step."""
    if at.world == 1:
        return share, asked
    both = torch.tensor([share, float(asked)], dtype=torch.float64, device=at.device)
    dist.all_reduce(both, dist.ReduceOp.MAX)
    return float(both[0]), int(both[1])


def rate(step: float, s: Loop) -> float:
    """Return the learning rate: a line up, then half a cosine down, or a tenth at each drop."""
    if step < s.warmup:
        return s.rate * (step + 1) / s.warmup
    if s.drops:
        return s.rate * 0.1 ** sum(step >= share * s.steps for share in s.drops)
    return s.rate * 0.5 * (1 + math.cos(math.pi * min(1.0, (step - s.warmup) / max(1, s.steps - s.warmup))))


def save(path: Path, state: dict[str, Any]) -> None:
    """Write a checkpoint so that there is always a whole one."""
    part = path.with_suffix(".part")
    with part.open("wb") as f:
        torch.save(state, f)
        f.flush()
        os.fsync(f.fileno())
    part.replace(path)


def load(path: Path, name: str | None = None) -> dict[str, Any]:
    """Read a checkpoint, of the network `name` unless that is None."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise Refused(f"there is no checkpoint {path}") from None
    except Exception as err:  # torch.load has no error of its own for a damaged file
        raise Refused(f"{path} is no checkpoint or is damaged: {type(err).__name__}") from None
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise Refused(f"{path} is no checkpoint of this program")
    if name is not None and state["name"] != name:
        raise Refused(f"{path} is a checkpoint of {state['name']}, not of {name}")
    return state


def weights(net: nn.Module, values: dict[str, Tensor], path: Path) -> None:
    """Load weights into a network of the same shape."""
    try:
        net.load_state_dict(values)
    except RuntimeError:
        raise Refused(f"the weights in {path} do not fit this network: its settings are others (see net.*)") from None


class Log:
    """Lines of numbers as text, CSV and TensorBoard."""

    def __init__(self, out: Path, step: int) -> None:
        self.text, self.table = out / "log.txt", out / "log.csv"
        if step == 0:
            self.text.write_text("")
            self.table.write_text("")
        elif self.table.exists():  # what came after the checkpoint is made again
            with self.table.open(newline="") as f:
                rows = list(csv.DictReader(f))
            rows = [r for r in rows if int(r["step"]) <= step]
            with self.table.open("w", newline="") as f:
                if rows:
                    w = csv.DictWriter(f, list(rows[0]))
                    w.writeheader()
                    w.writerows(rows)
        try:
            from torch.utils.tensorboard import SummaryWriter

            self.board = SummaryWriter(str(out), purge_step=step)
        except ImportError:
            self.board = None

    def line(self, step: int, row: dict[str, float]) -> None:
        text = f"step {step:6d}  " + "  ".join(f"{k} {v:.4g}" for k, v in row.items())
        print(text, flush=True)
        with self.text.open("a") as f:
            f.write(text + "\n")
        with self.table.open("a", newline="") as f:
            w = csv.DictWriter(f, ["step", *row])
            if f.tell() == 0:
                w.writeheader()
            w.writerow({"step": step, **{k: f"{v:.6g}" for k, v in row.items()}})
        if self.board:
            for key, value in row.items():
                self.board.add_scalar(key, value, step)
            self.board.flush()


def batches(task: Task, s: Loop, start: int, stop: int, at: Place) -> Iterator[list[Tensor]]:
    """Yield the batches of the steps from start to stop."""
    samples = Samples(task, start, stop, s.batch, at.rank, at.world)
    loader = DataLoader(
        samples,
        batch_size=s.batch // at.world,
        num_workers=s.workers,
        worker_init_fn=quiet,
        prefetch_factor=4 if s.workers else None,
        pin_memory=at.device.type == "cuda",
        multiprocessing_context="fork" if s.workers else None,
    )
    for batch in loader:
        yield [t.to(at.device, non_blocking=True) for t in batch]


Feed = Callable[[Task, Loop, int, int, Place], Iterator[list[Tensor]]]  # as batches


def quiet(_: int) -> None:
    """Set up a process that makes samples: one thread, and signals are for its parent."""
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def groups(net: nn.Module, decay: float) -> list[dict[str, Any]]:
    """Return the parameters for AdamW; norms and biases do not decay."""
    wide = [p for p in net.parameters() if p.ndim > 1]
    flat = [p for p in net.parameters() if p.ndim <= 1]
    return [{"params": wide, "weight_decay": decay}, {"params": flat, "weight_decay": 0.0}]


def train(
    task: Task, s: Loop, out: Path, *, resume: bool = False, init: Path | None = None, feed: Feed = batches
) -> int:
    """Train a task in folder `out` with the batches of `feed`. Returns 0, or 128 + the signal that ended the run
    early."""
    at = place()
    if s.minutes and s.drops:
        raise Refused("loop.minutes goes with the cosine alone: set loop.drops= or loop.minutes=0")
    if s.batch % at.world:
        raise Refused(f"loop.batch={s.batch} cannot be shared by {at.world} processes")
    path = out / CHECKPOINT
    if path.exists() and not resume:
        raise Refused(f"{out} holds a run: go on with --resume, or choose another --out")
    if s.threads:
        torch.set_num_threads(s.threads)
    bf16 = s.bf16 and computes_bf16(at.device)
    torch.manual_seed(s.seed)
    # Channels last: a fifth faster on a CPU (hilum-net), and the layout of tensor cores.
    net = task.model().to(at.device, memory_format=torch.channels_last_3d)
    ema = copy.deepcopy(net).eval()
    optimizer: torch.optim.Optimizer = torch.optim.AdamW(groups(net, s.decay), lr=s.rate)
    if s.momentum:
        optimizer = torch.optim.SGD(groups(net, s.decay), lr=s.rate, momentum=s.momentum)
    step, spent = 0, 0.0
    if resume and path.exists():
        state = load(path, task.name)
        if state["settings"] != task.settings:
            raise Refused(f"{path} was made with other settings; --resume needs the same ones")
        weights(net, state["model"], path)
        weights(ema, state["ema"], path)
        optimizer.load_state_dict(state["optimizer"])
        step, spent = state["step"], state["seconds"]
    elif init is not None:
        first = load(init, task.name)["ema"]
        weights(net, first, init)
        weights(ema, first, init)
    out.mkdir(parents=True, exist_ok=True)
    log = Log(out, step) if at.rank == 0 else None
    model: nn.Module = net
    if at.world > 1:
        if at.device.type == "cuda":
            net = nn.SyncBatchNorm.convert_sync_batchnorm(net)
        # Weights of one channel or one voxel are in both layouts at once, which costs nothing.
        warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")
        model = nn.parallel.DistributedDataParallel(net)
    stop, begin, sums, since = Stop(), time.monotonic() - spent, {}, step
    saved, wrong = step, 0

    def keep() -> None:
        if at.rank == 0:
            save(
                path,
                {
                    "format": FORMAT,
                    "name": task.name,
                    "settings": task.settings,
                    "step": step,
                    "seconds": time.monotonic() - begin,
                    "model": net.state_dict(),
                    "ema": ema.state_dict(),
                    "optimizer": optimizer.state_dict(),
                },
            )

    def left() -> str:
        return f"{path} of step {saved} is kept" if saved else "no checkpoint was written yet"

    try:
        for batch in feed(task, s, step, s.steps, at):
            now = rate(step, s)
            share, asked = agree(at, (time.monotonic() - begin) / (60 * s.minutes or math.inf), stop.signal)
            if asked:
                keep()
                print(f"stopped at step {step}; go on with --resume", flush=True)
                return 128 + asked
            if s.minutes:  # the clock decides: the cosine runs over the minutes
                if share >= 1:
                    break
                now = s.rate * min(1.0, (step + 1) / max(1, s.warmup)) * 0.5 * (1 + math.cos(math.pi * share))
            for group in optimizer.param_groups:
                group["lr"] = now
            model.train()
            before = [b.clone() for b in net.buffers()]
            with torch.autocast(at.device.type, torch.bfloat16, enabled=bf16):
                loss, parts = task.loss(model, tuple(batch))
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            norm = nn.utils.clip_grad_norm_(net.parameters(), s.clip)
            # A loss that is no number has such a gradient, and so on every device.
            fine = bool(torch.isfinite(norm))
            if fine:
                optimizer.step()
                wrong = 0
            else:  # a kernel's slip (seen on CPUs, in bf16 and in fp32): without this step the run goes on
                with torch.no_grad():
                    for b, was in zip(net.buffers(), before, strict=True):  # what batch norms took in of it
                        b.copy_(was)
                wrong += 1
                if wrong > SLIPS:
                    raise Refused(
                        f"the loss is {float(loss.detach())} and its gradient is not finite in {wrong} steps in a row, "
                        f"to step {step + 1}: {left()}; lower loop.rate, check the data, or try --set loop.bf16=false"
                    )
            step += 1
            with torch.no_grad():
                keep_share = min(s.ema, step / (step + 10))
                for mean, value in zip(ema.state_dict().values(), net.state_dict().values(), strict=True):
                    if mean.is_floating_point():
                        mean.lerp_(value, 1 - keep_share)
                    else:
                        mean.copy_(value)
            for key, value in parts.items() if fine else ():
                sums[key] = sums.get(key, 0.0) + float(value)
            if step % s.log_every == 0 and log and sums:
                row = task.row(sums, step - since)
                log.line(step, {**row, "rate": now, "seconds": time.monotonic() - begin})
                sums, since = {}, step
            if step % s.save_every == 0 and fine:
                keep()
                saved = step
    except torch.OutOfMemoryError:
        raise Refused(f"the device has not enough memory for loop.batch={s.batch}: choose a smaller one") from None
    keep()
    return 0
