"""Writes networks as ONNX and puts the files of a model folder in place, whole or not at all."""

from __future__ import annotations

import copy
import hashlib
import io
import os
import subprocess
import tempfile
import warnings
from pathlib import Path

import onnx
import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

OPSET = 17


def folded(net: nn.Module) -> nn.Module:
    """Return a copy in which every BatchNorm is part of the convolution before it."""
    net = copy.deepcopy(net).eval()
    for part in net.modules():
        if isinstance(part, nn.Sequential):
            for k in range(len(part) - 1):
                if isinstance(part[k], nn.Conv3d) and isinstance(part[k + 1], nn.BatchNorm3d):
                    part[k] = fuse_conv_bn_eval(part[k], part[k + 1])
                    part[k + 1] = nn.Identity()
    return net


class Half(nn.Module):
    """A network with fp16 weights and arithmetic that takes and gives float32."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = copy.deepcopy(net).half()

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x.half()).float()


def to_onnx(
    net: nn.Module,
    example: tuple[Tensor, ...],
    inputs: list[str],
    outputs: list[str],
    axes: dict[str, dict[int, str]],
) -> bytes:
    """Return the network as ONNX with dynamic axes."""
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's own deprecation; its output is checked below
        torch.onnx.export(
            net,
            example,
            file,
            input_names=inputs,
            output_names=outputs,
            dynamic_axes=axes,
            opset_version=OPSET,
            dynamo=False,
        )
    model = onnx.load_model_from_string(file.getvalue())
    onnx.checker.check_model(model, full_check=True)
    return model.SerializeToString()


def sha256(network: bytes) -> str:
    """Return the hash of a network as a manifest names it."""
    return hashlib.sha256(network).hexdigest()


def revision() -> str:
    """Return the commit of these programs, "-dirty" where files differ from it, or "unknown"."""
    here = Path(__file__).parent
    try:
        out = subprocess.run(
            ["git", "describe", "--always", "--abbrev=12", "--exclude=*", "--dirty"],
            cwd=here,
            capture_output=True,
            text=True,
            timeout=30,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return out.stdout.strip() or "unknown"


def write(folder: Path, files: dict[str, bytes]) -> None:
    """Put files in place in this order, the manifest last; none before all are on the disk."""
    folder.mkdir(parents=True, exist_ok=True)
    parts: list[tuple[str, Path]] = []
    try:
        for name, content in files.items():
            handle, part = tempfile.mkstemp(dir=folder, prefix=name + ".")
            parts.append((part, folder / name))
            with os.fdopen(handle, "wb") as f:
                f.write(content)
                f.flush()
                os.fsync(f.fileno())
            os.chmod(part, 0o644)
        while parts:
            os.replace(*parts[0])
            parts.pop(0)
    finally:
        for part, _ in parts:
            os.unlink(part)
