"""Compares the plugin, on every execution provider that is installed, with PyTorch.

Each model analyses one scan through `hilum train predict`, as a node does it. PyTorch then runs the same
network, read from the same ONNX file, over patches of the same sizes: its network seconds compare with the
plugin's. On a machine that does other work too, CPU seconds tell more than the others.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch.nn import functional

DATA = Path("../shared/data/lidc-0001")
RUNTIMES = Path(".cache/runtime")
PLACE_STRIDE = 4  # voxels between the cells whose place n-net is told
TOLERANCE = 1e-3  # of PyTorch's and ONNX Runtime's float32 outputs, of their largest number
LIBRARIES = {"openvino": "libonnxruntime_providers_openvino.so", "cuda": "libonnxruntime_providers_cuda.so"}


class UnknownError(Exception):
    """The network has an operator that is not in run()."""


@dataclass
class Row:
    """What one way to run a model took."""

    way: str
    scan: float | None  # seconds from the scan to its findings
    network: float  # seconds of the detector's network, and of decoding in the plugin
    cpu: float  # seconds of the whole process
    peak: float  # MiB


def sequence(pads: list[int]) -> list[int]:
    """Return ONNX's padding, which must be the same before and behind, as PyTorch's."""
    half = len(pads) // 2
    if pads[:half] != pads[half:]:
        raise UnknownError("uneven padding")
    return pads[:half]


def apply(node: onnx.NodeProto, x: list[torch.Tensor], a: dict) -> torch.Tensor:
    """Return the output of one node."""
    dims = x[0].ndim - 2
    match node.op_type:
        case "Conv" | "ConvTranspose":
            stride, pads = a.get("strides", [1] * dims), sequence(a.get("pads", [0] * 2 * dims))
            bias = x[2] if len(x) > 2 else None
            if node.op_type == "Conv":
                convolve = (functional.conv1d, functional.conv2d, functional.conv3d)[dims - 1]
                dilation = a.get("dilations", [1] * dims)
                return convolve(x[0], x[1], bias, stride, pads, dilation, a.get("group", 1))
            if a.get("output_padding") or a.get("group", 1) != 1 or dims != 3:
                raise UnknownError("this ConvTranspose")
            return functional.conv_transpose3d(x[0], x[1], bias, stride, pads)
        case "MaxPool":
            if dims != 3 or a.get("ceil_mode"):
                raise UnknownError("this MaxPool")
            return functional.max_pool3d(x[0], a["kernel_shape"], a["strides"], sequence(a.get("pads", [0] * 6)))
        case "BatchNormalization":
            return functional.batch_norm(x[0], x[3], x[4], x[1], x[2], eps=a.get("epsilon", 1e-5))
        case "Relu":
            return torch.relu(x[0])
        case "Sigmoid":
            return torch.sigmoid(x[0])
        case "Add":
            return x[0] + x[1]
        case "Mul":
            return x[0] * x[1]
        case "Div":
            return x[0] / x[1]
        case "Clip":
            return torch.clamp(x[0], *(float(v) for v in x[1:])) if len(x) > 2 else torch.clamp(x[0], max=float(x[1]))
        case "Concat":
            return torch.cat(x, a["axis"])
        case "Transpose":
            return x[0].permute(a["perm"])
        case "Reshape":
            sizes = [x[0].shape[i] if n == 0 else n for i, n in enumerate(x[1].int().tolist())]
            return x[0].reshape(sizes)
        case "Unsqueeze":
            for axis in sorted(x[1].int().tolist()):
                x[0] = x[0].unsqueeze(axis)
            return x[0]
        case "Identity":
            return x[0]
        case "Slice":
            out = x[0]
            axes, steps = (x[k].tolist() for k in (3, 4))
            for first, last, axis, step in zip(x[1].tolist(), x[2].tolist(), axes, steps, strict=True):
                out = out.index_select(axis, torch.tensor(range(out.shape[axis])[first:last:step], device=out.device))
            return out
        case "Shape":
            return torch.tensor(x[0].shape)
        case "Gather":
            return x[0].index_select(a.get("axis", 0), x[1].reshape(-1)).reshape(x[1].shape)
    raise UnknownError(node.op_type)


class Network:
    """An ONNX graph of the few operators of such networks, in PyTorch."""

    def __init__(self, path: Path, device: str, dtype: torch.dtype) -> None:
        self.graph = onnx.load(path).graph
        self.device, self.dtype = device, dtype
        self.weights = {w.name: self.tensor(w) for w in self.graph.initializer}
        for node in self.graph.node:
            if node.op_type == "Constant":
                self.weights[node.output[0]] = self.tensor(node.attribute[0].t)
        self.nodes = [n for n in self.graph.node if n.op_type != "Constant"]
        self.attributes = [{a.name: onnx.helper.get_attribute_value(a) for a in n.attribute} for n in self.nodes]
        self.last = {name: i for i, n in enumerate(self.nodes) for name in n.input}  # when a tensor may go

    def tensor(self, proto: onnx.TensorProto) -> torch.Tensor:
        t = torch.from_numpy(numpy_helper.to_array(proto).copy()).to(self.device)
        if not t.is_floating_point():
            return t
        t = t.to(self.dtype)
        return t.contiguous(memory_format=torch.channels_last_3d) if t.ndim == 5 else t

    @torch.inference_mode()
    def __call__(self, *inputs: torch.Tensor) -> torch.Tensor:
        placed = (x.to(self.device, self.dtype).contiguous(memory_format=torch.channels_last_3d) for x in inputs)
        values = {i.name: x for i, x in zip(self.graph.input, placed, strict=True)}
        for i, (node, attributes) in enumerate(zip(self.nodes, self.attributes, strict=True)):
            read = [values[n] if n in values else self.weights[n] for n in node.input if n]
            values[node.output[0]] = apply(node, read, attributes)
            del read
            for name in set(node.input):
                if self.last[name] == i:
                    values.pop(name, None)
        return values[self.graph.output[0].name]

    def noise(self, shape: tuple[int, ...], seed: int) -> list[torch.Tensor]:
        """Return inputs for a patch: noise, and for n-net as much of it in place of the cells' places."""
        rng, cells = np.random.default_rng(seed), [n // PLACE_STRIDE for n in shape]
        shapes = [(1, 1, *shape), (1, 3, *cells)][: len(self.graph.input)]
        return [torch.from_numpy(rng.standard_normal(s, np.float32)) for s in shapes]


def patches(text: str) -> list[tuple[int, ...]]:
    """Read the plugin's "2*128x96x96 1*64x64x64"."""
    out = []
    for part in text.split():
        count, shape = part.split("*")
        out += [tuple(map(int, shape.split("x")))] * int(count)
    return out


def pytorch(path: Path, shapes: str, device: str, dtype: str, threads: int) -> None:
    """Print the seconds of the network over all patches; runs in a process of its own."""
    torch.set_num_threads(threads)
    network = Network(path, device, getattr(torch, dtype))
    smallest = min(patches(shapes), key=np.prod)  # before the clock starts
    network(*network.noise(smallest, 1))
    start = time.perf_counter()
    for shape in patches(shapes):
        network(*network.noise(shape, 1)).float().cpu()
    print(json.dumps({"seconds": time.perf_counter() - start}))


def difference(path: Path, shape: tuple[int, ...]) -> float:
    """Return the largest difference of PyTorch's output from ONNX Runtime's on a patch, of its largest number."""
    import onnxruntime

    network = Network(path, "cpu", torch.float32)
    given = network.noise(shape, 2)
    got = network(*given).numpy()
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [i.name for i in session.get_inputs()]
    want = session.run(None, {n: x.numpy() for n, x in zip(names, given, strict=True)})[0]
    return float(np.abs(got - want).max() / np.abs(want).max())


def measured(command: list) -> tuple[str, float, float, float]:
    """Run a command; return its output, its seconds, its CPU seconds and its peak MiB, children included."""
    start = time.perf_counter()
    process = subprocess.Popen([str(c) for c in command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    out, err = process.stdout.read(), process.stderr.read()
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{command[0]} failed: {(err.strip().splitlines() or ['it said nothing'])[-1]}")
    return out, time.perf_counter() - start, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024


def plugin(
    options: argparse.Namespace, model: Path, runtime: Path, provider: str, scratch: Path
) -> tuple[Row, str] | None:
    """Analyse the scan on one provider; return what it took and the patches, None where another did it."""
    folder = scratch / f"{model.name}-{provider}"
    shutil.copytree(model, folder, dirs_exist_ok=True)
    manifest = json.loads((model / "model.json").read_text())
    manifest["cpu_providers"] = [provider, "cpu"] if provider == "openvino" else ["cpu"]
    (folder / "model.json").write_text(json.dumps(manifest))
    best, shapes = None, ""
    for n in range(options.runs):
        out = folder / f"out{n}"
        command = [
            options.hilum,
            "train",
            "predict",
            "--model",
            folder,
            "--runtime",
            runtime,
            "--processes",
            "1",
        ]
        command += [
            "--device",
            "cuda:0" if provider == "cuda" else "cpu",
            "--out",
            f"{out}.csv",
            "--json",
            f"{out}.json",
        ]
        _, _, cpu, peak = measured([*command, options.scan])
        said = json.loads(Path(f"{out}.json").read_text())["scans"][0]["attributes"]
        if said["provider"] != provider:
            return None
        shapes = said["patches"]
        steps = {k: float(v) for k, v in said.items() if k.startswith("seconds_")}
        row = Row(f"plugin, {provider}", sum(steps.values()), steps["seconds_detect"], cpu, peak)
        best = row if best is None or row.scan < best.scan else best
    return best, shapes


def compare(options: argparse.Namespace, model: Path, scratch: Path) -> bool:
    """Print the table of one model; tell whether PyTorch's output is ONNX Runtime's."""
    rows, shapes, done = [], "", set()
    for runtime in sorted({p.resolve() for p in RUNTIMES.iterdir() if p.is_dir()}):
        ways = ["cpu", *(name for name, file in LIBRARIES.items() if (runtime / file).exists())]
        for provider in ways:
            if provider in done or (provider == "cuda" and not torch.cuda.is_available()):
                continue
            if result := plugin(options, model, runtime, provider, scratch):
                rows.append(result[0])
                shapes = result[1]
                done.add(provider)
    count = Counter(patches(shapes))
    voxels = sum(np.prod(shape) * n for shape, n in count.items()) / 1e6
    print(f"\n{model}: {count.total()} patches, {voxels:.1f} million voxels, {options.threads} threads")
    try:
        apart = difference(model / "model.onnx", min(count, key=np.prod))
    except UnknownError as err:
        print(f"PyTorch is left out: the comparison does not know {err}")
        apart = 0.0
    else:
        ways = [("cpu", "float32")]
        if torch.ops.mkldnn._is_mkldnn_bf16_supported():  # else it takes twenty times as long
            ways.append(("cpu", "bfloat16"))
        if torch.cuda.is_available():
            ways += [("cuda", "float32"), ("cuda", "bfloat16")]
        for device, dtype in ways:
            call = [
                sys.executable,
                __file__,
                "--pytorch",
                model / "model.onnx",
                shapes,
                device,
                dtype,
                options.threads,
            ]
            runs = [measured(call) for _ in range(options.runs)]
            seconds, cpu, peak = min((json.loads(out)["seconds"], cpu, peak) for out, _, cpu, peak in runs)
            rows.append(Row(f"PyTorch {torch.__version__}, {device} {dtype}", None, seconds, cpu, peak))
        print(f"PyTorch's float32 output is ONNX Runtime's to {apart:.1e} of its largest number")
    print(f"{'':<36} {'scan to findings':>17} {'network':>9} {'CPU':>9} {'peak':>10}")
    for r in rows:
        scan = f"{r.scan:.1f} s" if r.scan is not None else ""
        print(f"{r.way:<36} {scan:>17} {r.network:>7.1f} s {r.cpu:>7.1f} s {r.peak:>6.0f} MiB")
    return apart <= TOLERANCE


def main() -> int:
    if sys.argv[1:2] == ["--pytorch"]:
        path, shapes, device, dtype, threads = sys.argv[2:]
        pytorch(Path(path), shapes, device, dtype, int(threads))
        return 0
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", type=Path, help="detectors' folders (default: those in models)")
    parser.add_argument("--scan", type=Path, help=f"DICOM series or MetaImage (default: {DATA} or a phantom)")
    parser.add_argument("--hilum", type=Path, default=Path("bin/hilum"))
    parser.add_argument("--runs", type=int, default=2, help="the best of so many counts (default: 2)")
    options = parser.parse_args()
    options.threads = os.cpu_count()
    for model in options.models:
        if not (model / "model.json").exists():
            raise SystemExit(f"{model} is no model folder: it has no model.json")
    models = options.models or [
        p.parent
        for p in sorted(Path("models").glob("*/model.json"))
        if json.loads(p.read_text())["task"] == "nodule-detection"
    ]
    equal = True
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        if options.scan is None:
            options.scan = DATA
            if not DATA.exists():
                options.scan = scratch / "phantom"
                measured([options.hilum, "phantom", "--out", options.scan])
        busy = f"{options.threads} processors, load {os.getloadavg()[0]:.1f} before"
        print(f"scan {options.scan.name}, {busy}; the best of {options.runs} runs")
        for model in models:
            equal &= compare(options, model, scratch)
    return 0 if equal else 1


if __name__ == "__main__":
    sys.exit(main())
