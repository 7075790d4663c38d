"""Write a model folder from a run of train_classifier.py: model.onnx and model.json.

    python export_classifier.py RUN ../../models/lung-nodule-classifier

The network is the committee of all readers with the calibration that was measured on patients left out. ONNX
Runtime's outputs are compared with PyTorch's before anything is written, for one crop and for several.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from torch import Tensor

import artifact
import nodules
from classifier import Committee, Shape
from settings import Refused, changed, from_dict
from train_classifier import NAME, Settings, committee

CLOSE = 1e-4  # largest difference of a probability between ONNX Runtime and PyTorch
INTENDED_USE = (
    "Research use, not a medical device. Says how a nodule looks to it (malignancy as radiologists vote it, "
    "texture); no histology stands behind it, and it is no basis for any decision about a patient."
)
DATA = (
    "987 nodules of 547 patients of LUNA16 and 130 of 130 patients in cubes, with readers' votes: "
    "LIDC-IDRI, CC BY 3.0 (Armato et al. 2011, doi 10.1118/1.3528204; TCIA doi 10.7937/K9/TCIA.2015.LO9QL9SX)"
)


def to_onnx(net: Committee, shape: Shape) -> bytes:
    """Return the network as ONNX with a dynamic number of crops."""
    example = (torch.rand(2, 1, shape.size, shape.size, shape.size), torch.tensor([[6.0], [20.0]]))
    inputs, outputs = ["crops", "diameter_mm"], ["malignancy", "texture"]
    return artifact.to_onnx(net, example, inputs, outputs, {name: {0: "n"} for name in inputs + outputs})


def compare(net: Committee, network: bytes, crops: Tensor, diameter: Tensor) -> float:
    """Return the largest difference between the two programs' probabilities; refuse one above CLOSE."""
    with torch.no_grad():
        wanted = [t.numpy() for t in net(crops, diameter)]
    session = onnxruntime.InferenceSession(network, providers=["CPUExecutionProvider"])
    worst = 0.0
    for part in (slice(0, 1), slice(None)):
        got = session.run(None, {"crops": crops[part].numpy(), "diameter_mm": diameter[part].numpy()})
        worst = max(worst, *(float(np.abs(g - w[part]).max()) for g, w in zip(got, wanted, strict=True)))
    if not worst <= CLOSE:
        raise Refused(f"ONNX Runtime and PyTorch differ by {worst:.2g}, more than {CLOSE}; nothing was written")
    return worst


def probes(shape: Shape) -> tuple[Tensor, Tensor]:
    """Return crops [8,1,S,S,S] and diameters [8,1] that the two programs are compared on."""
    rng = torch.Generator().manual_seed(3)
    crops = torch.rand(8, 1, shape.size, shape.size, shape.size, generator=rng)
    edge = (nodules.SIZE - shape.size) // 2
    for k, nodule in enumerate(nodules.simulate(6, 3)):
        inside = nodule.cube[edge : edge + shape.size, edge : edge + shape.size, edge : edge + shape.size]
        crops[k, 0] = torch.from_numpy(inside).float() / 255
    return crops, torch.tensor([[3.0], [5.0], [8.0], [12.0], [20.0], [45.0], [6.0], [30.0]])


def manifest(
    version: str, network: bytes, s: Settings, report: dict[str, Any], difference: float, tiny: bool
) -> dict[str, Any]:
    """Return model.json."""
    command = f"python trainer/torch/train_classifier.py {'--tiny' if tiny else '../shared/data'} --out RUN"
    data = "simulated nodules" if tiny else DATA
    tested = "five folds by patient, each judged by readers that saw none of the patient's nodules"

    def metric(name: str, of: dict[str, Any]) -> dict[str, Any]:
        return {
            "name": name,
            "value": round(of["auc"], 4),
            "interval": [round(v, 4) for v in of["interval"]],
            "data": f"{of['n']} nodules, {of['malignant']} malignant (mean vote > 3; = 3 left out); {tested}",
            "command": command,
        }

    metrics = [
        metric("AUC of malignancy", report["as annotated"]),
        metric("AUC of malignancy, centre and diameter jittered", report["centre and diameter jittered"]),
        metric("AUC of the diameter alone", report["diameter alone"]),
    ]
    plain = {"data": tested, "command": command}
    metrics += [
        {"name": "expected calibration error", "value": round(report["ece"], 4), **plain},
        {"name": "accuracy of texture", "value": round(report["texture"]["accuracy"], 4), **plain},
        {
            "name": "largest difference between ONNX Runtime and PyTorch",
            "value": float(f"{difference:.2g}"),
            "data": "six simulated nodules, two crops of noise",
            "command": "python trainer/torch/export_classifier.py RUN MODEL",
        },
    ]
    return {
        "name": NAME,
        "version": version,
        "task": "nodule-classification",
        "sha256": artifact.sha256(network),
        "input": {
            "crops": "crops",
            "diameter": "diameter_mm",
            "spacing_mm": s.shape.spacing_mm,
            "window_hu": list(s.shape.window_hu),
            "pad_value_hu": s.shape.window_hu[0],
            "size": s.shape.size,
        },
        "outputs": {
            "malignancy": "malignancy",
            "texture": "texture",
            "texture_names": list(nodules.TEXTURES),
            "leak": round(report["leak"], 4),
        },
        "cpu_providers": ["cpu"],
        "provenance": {
            "data": data,
            "code": "trainer/torch/train_classifier.py",
            "command": command,
            "settings": changed(s),
            "metrics": metrics,
        },
        "licence": "Apache-2.0",
        "intended_use": INTENDED_USE,
    }


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    p = argparse.ArgumentParser(description="Write a model folder from a run of train_classifier.py.")
    p.add_argument("run", type=Path, help="folder of the run")
    p.add_argument("model", type=Path, help="folder of the model")
    p.add_argument("--version", default="1.0.0")
    options = p.parse_args(arguments)
    path = options.run / "report.json"
    try:
        report = json.loads(path.read_text())
        s = from_dict(Settings, report["settings"])
    except (OSError, ValueError, KeyError) as err:
        raise Refused(f"{path} cannot be read ({type(err).__name__}): train all folds first") from None
    net = committee(s, options.run, list(range(s.folds)))
    net.slope.fill_(report["slope"])
    net.shift.fill_(report["shift"])
    network = to_onnx(net, s.shape)
    difference = compare(net, network, *probes(s.shape))
    made = manifest(options.version, network, s, report, difference, report["simulated"])
    text = json.dumps(made, indent=2, ensure_ascii=False) + "\n"
    artifact.write(options.model, {"model.onnx": network, "model.json": text.encode()})
    print(f"{options.model}: {len(network) / 1e6:.1f} MB, differs from PyTorch by {difference:.1g}")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except Refused as refused:
        sys.exit(f"error: {refused}")
