"""Writes a model folder, model.onnx and model.json, from a trained network.

    python export.py RUN/checkpoint.pt models/lung-nodule-detector --data "what it was trained on"
    python export.py RUN/checkpoint.pt models/n-net --data "…"           # of n-net, the baseline
    python export.py RUN/checkpoint.pt models/lung-nodule-detector       # of rescore.py: rescore.onnx beside it
    python export.py RUN models/lung-nodule-classifier                   # of train_classifier.py

ONNX Runtime's outputs are compared with PyTorch's on patches of several shapes before anything is written.
--fp16 writes a network that computes in half precision, for GPUs; its input and output stay float32.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from torch import Tensor, nn

import artifact
import detect
import loop
import n_net
import rescore
import settings
import train_n_net
from hilum_net import MULTIPLE, STRIDE
from settings import Refused

Inputs = tuple[Tensor, ...]  # of a network: what it is given at once

# Largest differences between ONNX Runtime and PyTorch: of a probability, and of any output.
CLOSE = (1e-4, 1e-3)
CLOSE_FP16 = (0.02, 0.1)
SHAPES = ((1, 64, 64, 64), (2, 48, 64, 80), (3, 32, 32, 32), (1, 96, 16, 112))  # batch, z, y, x
MARGIN_VOXELS = (24, 24)  # around the lungs' box: a mass on the pleura lies outside the lungs
REACH_MM = 20
TOP_K, NMS_IOU, MERGE = 100, 0.05, 1.0
MIRRORS = ("z", "y", "x", "zy", "zx", "yx", "zyx")
PROVIDERS = ("openvino", "cpu")
RESCORE_BATCH = 32
INTENDED_USE = (
    "Research use, not a medical device. Marks places in a chest CT that look to it like lung nodules, for "
    "somebody who reads the scan; no basis for any decision about a patient."
)


AXES = {  # of a detector's inputs and output that have any size
    "volume": {0: "n", 2: "z", 3: "y", 4: "x"},
    "place": {0: "n", 2: "d", 3: "h", 4: "w"},
    "candidates": {0: "n", 1: "d", 2: "h", 3: "w"},
}


@dataclass
class Served:
    """What a manifest says of one kind of detector."""

    program: str  # that trains it
    changed: str  # its settings that are not the defaults
    anchors: list[float]
    patch: int  # voxels of a side: as much as a search may hold at once
    margin: int
    place: bool = False  # it reads where a patch lies


class Sized(nn.Module):
    """A detector that asks more of what it measures small: logit + slope · min(0, ln(diameter / below)).

    Lungs are full of specks that look like nodules of 3 mm and are not reported; the network is trained on as
    many small nodules as large ones and cannot know that.
    """

    def __init__(self, net: nn.Module, anchor: float, slope: float, below: float) -> None:
        super().__init__()
        self.net, self.slope, self.shift = net, slope, math.log(anchor / below)

    def forward(self, x: Tensor) -> Tensor:
        y = self.net(x)
        small = torch.clamp(y[..., 4:] + self.shift, max=0.0)
        return torch.cat([y[..., :1] + self.slope * small, y[..., 1:]], -1)


def to_onnx(net: nn.Module, example: Inputs) -> bytes:
    """Return a detector as ONNX for any batch and any patch of multiples of 16 voxels."""
    names = ["volume", "place"][: len(example)]
    return artifact.to_onnx(net, example, names, ["candidates"], {n: AXES[n] for n in (*names, "candidates")})


def answers(network: bytes, inputs: list[Inputs]) -> list[np.ndarray]:
    """Return the first output of ONNX Runtime for each set of inputs."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(network, options, providers=["CPUExecutionProvider"])
    names = [i.name for i in session.get_inputs()]
    return [session.run(None, {n: x.numpy() for n, x in zip(names, each, strict=True)})[0] for each in inputs]


@torch.no_grad()
def compare(net: nn.Module, network: bytes, inputs: list[Inputs], close: tuple[float, float]) -> float:
    """Return the largest difference of a probability from the checkpoint's network; refuse one above `close`."""
    worst, rest = 0.0, 0.0
    for each, got in zip(inputs, answers(network, inputs), strict=True):
        want = net(*each).numpy()
        if got.shape != want.shape:
            raise Refused(f"the exported network answers {got.shape} and PyTorch {want.shape}; nothing was written")
        probability = [1 / (1 + np.exp(-v[..., 0].astype(np.float64))) for v in (got, want)]
        worst = max(worst, float(np.abs(probability[0] - probability[1]).max()))
        rest = max(rest, float(np.abs(got - want).max()))
    if not (worst <= close[0] and rest <= close[1]):
        raise Refused(
            f"ONNX Runtime and PyTorch differ by {worst:.2g} in a probability and {rest:.2g} in an output, more "
            f"than {close[0]:g} and {close[1]:g}; nothing was written"
        )
    return worst


def noise(shapes: tuple[tuple[int, ...], ...]) -> list[Inputs]:
    """Return inputs to compare on: noise in the lungs' density, and in tissue's in one half."""
    rng, out = torch.Generator().manual_seed(5), []
    for n, *shape in shapes:
        x = torch.randn(n, 1, *shape, generator=rng) * 0.2 - 0.7
        x[..., shape[2] // 2 :] += 0.9
        out.append((x,))
    return out


def metrics(path: Path | None, data: str, command: str) -> list[dict[str, Any]]:
    """Read measured figures: a list as in a manifest, or what `hilum train evaluate --json` printed."""
    if path is None:
        return []
    try:
        found = json.loads(path.read_text())
        if isinstance(found, dict):
            found = evaluated(found, data, command)
        for m in found:
            low, high = m.get("interval", (m["value"], m["value"]))
            known = {"name", "value", "interval", "data", "command"}
            if set(m) - known or not math.isfinite(m["value"]) or not low <= m["value"] <= high:
                raise ValueError
            if not all(isinstance(m[key], str) and m[key] for key in ("name", "data", "command")):
                raise ValueError
    except OSError as err:
        raise Refused(f"{path} cannot be read ({err.strerror})") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise Refused(
            f"{path} holds no figures: give what `hilum train evaluate --json` printed, or a list of objects with "
            "name, value, data, command and perhaps interval"
        ) from None
    return found


def evaluated(e: dict[str, Any], data: str, command: str) -> list[dict[str, Any]]:
    """Return the figures of an evaluation."""
    if not data:
        raise Refused("say with --measured-on which scans the figures come from")
    where = {"data": f"{data}; {e['scans']} scans, {e['tp'] + e['fn']} nodules", "command": command}
    cpm = {"name": "CPM", "value": e["cpm"], "interval": [e["cpm_low"], e["cpm_high"]], **where}
    if e["cpm_high"] <= e["cpm_low"]:  # without bootstrap
        del cpm["interval"]
    rates = zip(e["false_positives_per_scan"], e["sensitivity"], strict=True)
    return [cpm, *({"name": f"sensitivity at {r:g} false marks a scan", "value": s, **where} for r, s in rates)]


def manifest(
    a: argparse.Namespace, state: dict[str, Any], of: Served, network: bytes, difference: float
) -> dict[str, Any]:
    """Return model.json."""
    prepare = dict(state["settings"]["prepare"])
    if not prepare["masking"]:
        prepare["margin_voxels"] = list(MARGIN_VOXELS)  # changes no voxel, only how much is looked at
    command = "hilum train detector --out RUN"
    if of.changed != "the defaults":
        command += "".join(f" --set {change}" for change in of.changed.split(" "))
    program = state.get("revision") or f"{artifact.revision()} at the export"
    lock = artifact.sha256((Path(__file__).parent / "training.lock").read_bytes())[:12]
    figures = metrics(a.metrics, a.measured_on, a.measured_by)
    figures.append(
        {
            "name": "largest difference of a probability between ONNX Runtime and PyTorch",
            "value": float(f"{difference:.2g}"),
            "data": f"{len(SHAPES)} patches of noise of {len(SHAPES)} shapes",
            "command": "hilum train export RUN/checkpoint.pt MODEL",
        }
    )
    return {
        "name": a.name,
        "version": a.version,
        "task": "nodule-detection",
        "sha256": artifact.sha256(network),
        "input": {
            "name": "volume",
            **({"place": "place"} if of.place else {}),
            "prepare": prepare,
            "scale": {"subtract": detect.SUBTRACT, "divide": detect.DIVIDE},
            "patch": [of.patch] * 3,
            "step": MULTIPLE,
            "margin": of.margin,
            "batch": 1,
            "reach_mm": REACH_MM,
        },
        "output": {
            "name": "candidates",
            "stride": STRIDE,
            "anchors": of.anchors,
            "threshold": a.threshold,
            "nms_iou": NMS_IOU,
            "merge": MERGE,
            "min_in_lung": 0,
            "top_k": TOP_K,
        },
        **({"again": a.again} if a.again else {}),
        "cpu_providers": a.providers.split(","),
        "provenance": {
            "data": a.data or state["settings"]["data"],
            "code": f"trainer/torch/{of.program}, revision {program}, training.lock {lock}",
            "command": f"{command} DATA" + (f" -- --net {state['name']}" if of.place else ""),
            "settings": f"{of.changed}; {state['step']} steps in {state['seconds'] / 60:.0f} minutes, averaged weights"
            + (f", --small {a.small}" if numbers(a.small)[0] else "")
            + (", fp16" if a.fp16 else ""),
            "metrics": figures,
        },
        "licence": "Apache-2.0",
        "intended_use": INTENDED_USE,
    }


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("checkpoint", type=Path, help="checkpoint.pt, or the folder of the run")
    p.add_argument("model", type=Path, help="folder of the model")
    p.add_argument("--name", help="of the model; else the folder's")
    p.add_argument("--version", default="1.0.0")
    p.add_argument("--fp16", action="store_true", help="half precision, for GPUs")
    p.add_argument("--threshold", type=float, default=0.5, help="probability from which a finding is reported")
    p.add_argument(
        "--small",
        default="0,6",
        metavar="SLOPE,MM",
        help="ask more of findings that measure less than MM: SLOPE less logit for each factor e in the diameter",
    )
    p.add_argument(
        "--again",
        metavar="FROM,MIRROR,...",
        help="look again where the probability is at least FROM, once in each MIRROR: the axes that run the other "
        "way, such as z, yx or zyx; the answer is the mean",
    )
    p.add_argument("--providers", default="cpu", help="execution providers on a CPU, best first: openvino,cpu")
    p.add_argument("--data", help="what it was trained on, where the checkpoint does not say it")
    p.add_argument("--metrics", type=Path, help="JSON of `hilum train evaluate --json`, or a list of figures")
    p.add_argument("--measured-on", default="", help="the scans of that evaluation")
    p.add_argument("--measured-by", default="hilum train predict; hilum train evaluate", help="its commands")
    p.add_argument("--weight", type=float, default=0.5, help="of a network of rescore.py in the probability")
    p.add_argument("--rescore-from", type=float, default=0.02, help="probability from which it is asked")
    return p


def check(a: argparse.Namespace) -> None:
    """Refuse what no detector can be written with."""
    a.name = a.name or a.model.resolve().name
    if not re.fullmatch(r"[a-z0-9][a-z0-9._-]{0,62}", a.name):
        raise Refused(f"{a.name!r} is no name of a model: a-z, 0-9, '.', '_' and '-'; choose one with --name")
    if not re.fullmatch(r"[0-9]+\.[0-9]+\.[0-9]+", a.version):
        raise Refused(f"--version {a.version} is not of the form 1.2.3")
    if not 0 < a.threshold < 1:
        raise Refused(f"--threshold {a.threshold:g} is not between 0 and 1")
    a.again = again(a.again) if a.again else None
    if not set(a.providers.split(",")) <= set(PROVIDERS):
        raise Refused(f"--providers {a.providers}: there are openvino and cpu")


def told(a: argparse.Namespace, state: dict[str, Any]) -> None:
    """Refuse a checkpoint of which nobody says what it was trained on."""
    if not a.data and "data" not in state["settings"]:
        raise Refused("the checkpoint does not say what it was trained on: say it with --data")


def detector(a: argparse.Namespace) -> str:
    """Write the folder of a hilum-net; returns what to say."""
    check(a)
    slope, below = numbers(a.small)
    net, s, state = detect.load(a.checkpoint)
    told(a, state)
    plain = artifact.folded(net)
    served = artifact.Half(plain) if a.fp16 else plain
    wanted, network = (Sized(n, s.net.anchor, slope, below) for n in (net, served))
    of = Served("train_detector.py", settings.changed(s), [s.net.anchor], 256, detect.MARGIN)
    return finish(a, state, of, wanted, network, noise(SHAPES))


def baseline(a: argparse.Namespace) -> str:
    """Write the folder of an n-net; returns what to say."""
    check(a)
    if a.again or a.fp16 or numbers(a.small)[0]:
        raise Refused("--again, --small and --fp16 are for hilum-net: n-net is the baseline, served as published")
    state = loop.load(a.checkpoint, train_n_net.NAME)
    s = settings.from_dict(settings.NDetector, state["settings"])
    told(a, state)
    net = n_net.NNetwork(s.net)
    loop.weights(net, state["ema"], a.checkpoint)
    inputs = []
    for (x,) in noise(SHAPES):
        cells, side = tuple(v // STRIDE for v in x.shape[2:]), torch.tensor(x.shape[2:])
        place = n_net.places(torch.tensor([-8, 16, 40]), side, cells, torch.tensor([300, 240, 320]))
        inputs.append((x, place.expand(len(x), -1, -1, -1, -1).clone()))
    whole = s.net.core + 2 * s.net.margin
    of = Served(
        "train_n_net.py", settings.changed(s), list(s.net.anchors), whole, s.net.margin // STRIDE * STRIDE, place=True
    )
    return finish(a, state, of, net.eval(), artifact.folded(net), inputs)


def finish(
    a: argparse.Namespace, state: dict[str, Any], of: Served, wanted: nn.Module, net: nn.Module, inputs: list[Inputs]
) -> str:
    """Write a detector's network, once it answers as wanted; returns what to say."""
    network = to_onnx(net, inputs[0])
    difference = compare(wanted, network, inputs, CLOSE_FP16 if a.fp16 else CLOSE)
    made = manifest(a, state, of, network, difference)
    artifact.write(a.model, {"model.onnx": network, "model.json": text(made)})
    return f"{a.model}: {len(network) / 1e6:.1f} MB, differs from PyTorch by {difference:.1g}"


def numbers(text: str) -> tuple[float, float]:
    """Read --small."""
    try:
        slope, below = (float(part) for part in text.split(","))
        if not (0 <= slope <= 100 and 0 < below < 100):
            raise ValueError
    except ValueError:
        raise Refused(f"--small {text}: give a slope from 0 and a diameter in mm, such as 4,6") from None
    return slope, below


def again(text: str) -> dict[str, Any]:
    """Read --again."""
    first, *mirrors = text.split(",")
    try:
        start = float(first)
    except ValueError:
        start = 0.0
    if not 0 < start < 1 or not mirrors or len(set(mirrors)) < len(mirrors) or not set(mirrors) <= set(MIRRORS):
        raise Refused(f"--again {text}: give a probability and mirrors of {', '.join(MIRRORS)}, such as .3,zyx")
    return {"from": start, "mirrors": mirrors}


def rescoring(a: argparse.Namespace) -> str:
    """Write a network of rescore.py into the folder of its detector; returns what to say."""
    if not 0 <= a.weight <= 1:
        raise Refused(f"--weight {a.weight:g} is not in 0..1")
    if not 0 < a.rescore_from < 1:
        raise Refused(f"--rescore-from {a.rescore_from:g} is not between 0 and 1")
    judge, state = rescore.load(a.checkpoint)
    path = a.model / "model.json"
    try:
        made = json.loads(path.read_text())
        detector_prepare, scale = dict(made["input"]["prepare"]), made["input"]["scale"]
    except (OSError, ValueError, KeyError, TypeError) as err:
        raise Refused(f"{path} is no detector's manifest ({type(err).__name__}): export the detector first") from None
    prepare = {**state["settings"]["prepare"], "margin_voxels": detector_prepare.get("margin_voxels")}
    if detector_prepare != prepare or scale != {"subtract": detect.SUBTRACT, "divide": detect.DIVIDE}:
        raise Refused(f"{path} prepares scans in another way than the network of {a.checkpoint} was trained on")
    example = (torch.zeros(2, 1, *[rescore.SIZE] * 3),)
    names = {"crops": {0: "n"}, "logit": {0: "n"}}
    network = artifact.to_onnx(artifact.folded(judge), example, ["crops"], ["logit"], names)
    difference = compare(judge, network, noise(((1, *[rescore.SIZE] * 3), (5, *[rescore.SIZE] * 3))), CLOSE)
    made["rescore"] = {
        "sha256": artifact.sha256(network),
        "input": "crops",
        "output": "logit",
        "size": rescore.SIZE,
        "batch": RESCORE_BATCH,
        "threshold": a.rescore_from,
        "weight": a.weight,
    }
    first = made["provenance"]["settings"].split("; rescore.py: ")[0]
    made["provenance"]["settings"] = f"{first}; rescore.py: {state['step']} steps"
    artifact.write(a.model, {"rescore.onnx": network, "model.json": text(made)})
    return f"{a.model}/rescore.onnx: {len(network) / 1e6:.1f} MB, differs from PyTorch by {difference:.1g}"


def text(made: dict[str, Any]) -> bytes:
    """Return a manifest as its file's bytes."""
    return (json.dumps(made, indent=2, ensure_ascii=False) + "\n").encode()


def main() -> int:
    """Run the program."""
    if len(sys.argv) > 1 and (Path(sys.argv[1]) / "report.json").exists():
        import export_classifier

        return export_classifier.main()
    a = parser().parse_args()
    if a.checkpoint.is_dir():
        a.checkpoint = a.checkpoint / loop.CHECKPOINT
    write = {detect.NAME: detector, train_n_net.NAME: baseline, rescore.NAME: rescoring}
    name = loop.load(a.checkpoint)["name"]
    if name not in write:
        raise Refused(f"{a.checkpoint} is a checkpoint of {name}, which is not exported from here: name its whole run")
    print(write[name](a))
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except Refused as refused:
        sys.exit(f"error: {refused}")
