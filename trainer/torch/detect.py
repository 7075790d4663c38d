"""Runs a trained detector over whole prepared scans, as the plugin does, for what follows a training.

Positions z, y, x in voxels of the scan (1 mm), diameters in voxels. The plugin's own code decides what a
node reports (plugins/lungnodule); this is for mining and rescoring, where all candidates count.
"""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import ndimage

import loop
import settings
from hilum_net import MULTIPLE, STRIDE, HilumNet

NAME = "hilum-net"
PATCH, MARGIN = 128, 16  # voxels of a patch, and at each side what is context only
SUBTRACT = DIVIDE = 128.0  # from a byte to what the network sees
NEAR = 4.0  # voxels: candidates nearer than this, or than their radius, are one


def load(path: Path) -> tuple[HilumNet, settings.Detector, dict[str, Any]]:
    """Return the averaged network of a checkpoint, its settings, and the whole checkpoint."""
    path = path / loop.CHECKPOINT if path.is_dir() else path
    state = loop.load(path, NAME)
    s = settings.from_dict(settings.Detector, state["settings"])
    net = HilumNet(s.net)
    loop.weights(net, state["ema"], path)
    return net.eval(), s, state


def scaled(voxels: np.ndarray) -> torch.Tensor:
    """Return bytes as the network's float32 input."""
    return (torch.from_numpy(np.ascontiguousarray(voxels)).float() - SUBTRACT) / DIVIDE


def cuts(first: int, last: int) -> list[tuple[int, int]]:
    """Return the cores [from, to) of patches that cover voxels first to last of an axis, evenly."""
    core = PATCH - 2 * MARGIN
    count = max(1, -(-(last - first) // core))
    width = -(-(last - first) // count)
    width = -(-width // MULTIPLE) * MULTIPLE
    return [(first + k * width, first + (k + 1) * width) for k in range(-(-(last - first) // width))]


@torch.no_grad()
def outputs(net: HilumNet, voxels: np.ndarray, pad: int, region: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the network's answer [cells, 5] and the voxels of the cells [cells, 3] where region is true."""
    found, places = [], []
    where = ndimage.find_objects(region.astype(np.uint8))
    if not where:
        return np.zeros((0, 5), np.float32), np.zeros((0, 3), np.float32)
    for core in itertools.product(*(cuts(part.start, part.stop) for part in where[0])):
        if not region[tuple(slice(max(0, a), b) for a, b in core)].any():
            continue
        lo = np.array([a - MARGIN for a, _ in core])
        hi = np.array([b + MARGIN for _, b in core])
        a, b = np.maximum(lo, 0), np.minimum(hi, voxels.shape)
        patch = np.full(hi - lo, pad, np.uint8)
        patch[tuple(slice(p, q) for p, q in zip(a - lo, b - lo, strict=True))] = voxels[
            tuple(slice(p, q) for p, q in zip(a, b, strict=True))
        ]
        edge = MARGIN // STRIDE
        answer = net(scaled(patch)[None, None])[0, edge:-edge, edge:-edge, edge:-edge, 0].float().numpy()
        peak = answer[..., 0] == ndimage.maximum_filter(answer[..., 0], 3)
        for cell in np.argwhere(peak):
            at = cell * STRIDE + (STRIDE - 1) / 2 + lo + MARGIN
            voxel = np.minimum(at.astype(int), np.array(voxels.shape) - 1)
            if region[tuple(voxel)]:
                found.append(answer[tuple(cell)])
                places.append(at)
    return np.array(found, np.float32).reshape(-1, 5), np.array(places, np.float32).reshape(-1, 3)


def candidates(
    net: HilumNet, anchor: float, voxels: np.ndarray, pad: int, region: np.ndarray, least: float, most: int
) -> np.ndarray:
    """Return the most probable findings [n, 5] of at least `least`: z, y, x, diameter, probability."""
    raw, at = outputs(net, voxels, pad, region)
    p = 1 / (1 + np.exp(-raw[:, 0].astype(np.float64)))
    centre = at + raw[:, 1:4] * anchor
    diameter = anchor * np.exp(np.clip(raw[:, 4], -3, 3))
    kept: list[np.ndarray] = []
    for k in np.argsort(-p, kind="stable"):
        if p[k] < least or len(kept) == most:
            break
        row = np.array([*centre[k], diameter[k], p[k]])
        if all(np.linalg.norm(row[:3] - o[:3]) >= max(NEAR, o[3] / 2) for o in kept):
            kept.append(row)
    return np.array(kept).reshape(-1, 5)
