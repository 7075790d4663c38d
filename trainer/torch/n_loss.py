"""Targets and loss of n-net: one positive a crop, hard negatives, smooth L1."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as fn

from n_net import STRIDE
from settings import NLoss


def overlaps(box: np.ndarray, cells: int, anchors: tuple[float, ...]) -> np.ndarray:
    """Return the IoU [cells, cells, cells, anchors] of a cube (z, y, x, side) with every anchor."""
    at = np.arange(cells) * STRIDE + (STRIDE - 1) / 2
    out = np.empty((cells,) * 3 + (len(anchors),), np.float32)
    for k, a in enumerate(anchors):
        z, y, x = (
            np.clip(np.minimum(at + a / 2, c + box[3] / 2) - np.maximum(at - a / 2, c - box[3] / 2), 0, None)
            for c in box[:3]
        )
        both = z[:, None, None] * y[:, None] * x
        out[..., k] = both / (a**3 + box[3] ** 3 - both)
    return out


def targets(
    rng: np.random.Generator,
    target: np.ndarray | None,
    boxes: np.ndarray,
    cells: int,
    anchors: tuple[float, ...],
    s: NLoss,
) -> Tensor:
    """Return [cells, cells, cells, anchors, 5]: 1, 0 or -1 (counts not), then the positive's offsets.

    target: the nodule the crop was made for (z, y, x, diameter), one anchor of which is positive;
    boxes [n, 4]: all nodules, near which nothing is negative.
    """
    out = np.zeros((cells,) * 3 + (len(anchors), 5), np.float32)
    free = np.ones(out.shape[:-1], bool)
    for box in boxes:
        near = overlaps(box, cells, anchors)
        free &= near < s.negative
        touching = near > s.positive  # and what is next to a positive
        for axis in range(3):
            shifted = np.zeros_like(touching)
            front, rear = [slice(None)] * 4, [slice(None)] * 4
            front[axis], rear[axis] = slice(1, None), slice(None, -1)
            shifted[tuple(front)] |= touching[tuple(rear)]
            shifted[tuple(rear)] |= touching[tuple(front)]
            free &= ~shifted
    drawn = np.flatnonzero(free)
    if len(drawn) > s.negatives:
        drawn = rng.choice(drawn, s.negatives, replace=False)
    label = np.full(free.size, -1, np.float32)
    label[drawn] = 0
    out[..., 0] = label.reshape(free.shape)
    if target is not None:
        iou = overlaps(target, cells, anchors)
        fit = np.argwhere(iou > s.positive)
        if len(fit):
            i, j, k, a = fit[rng.integers(len(fit))]
        else:  # the nearest cell with the anchor of the most alike size
            i, j, k = np.clip(np.rint((target[:3] - (STRIDE - 1) / 2) / STRIDE).astype(int), 0, cells - 1)
            a = int(np.argmin(np.abs(np.log(target[3] / np.array(anchors)))))
        at = np.array([i, j, k]) * STRIDE + (STRIDE - 1) / 2
        out[i, j, k, a] = [1, *((target[:3] - at) / anchors[a]), np.log(target[3] / anchors[a])]
    return torch.from_numpy(out)


def n_loss(out: Tensor, wanted: Tensor, s: NLoss) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the loss of outputs [N, d, h, w, anchors, 5] and the sums of the log line."""
    out, label = out.float(), wanted[..., 0]
    positive, negative = label == 1, label == 0
    logit, hits = out[..., 0], positive.sum()
    scale = hits.clamp(min=1)
    pos = fn.softplus(-logit[positive]).sum() / scale
    each = torch.where(negative, logit, torch.full_like(logit, -torch.inf)).flatten()
    hardest = torch.topk(each, min(s.hardest * len(out), each.numel())).values
    hardest = hardest[torch.isfinite(hardest)]
    neg = fn.softplus(hardest).sum() / max(1, len(hardest))
    parts = fn.smooth_l1_loss(out[positive][:, 1:], wanted[positive][:, 1:], reduction="none").sum(0) / scale
    classify = 0.5 * pos + 0.5 * neg
    loss = classify + parts.sum()
    with torch.no_grad():
        sums = {
            "loss": loss.detach(), "classify": classify.detach(),
            "z": parts[0].detach(), "y": parts[1].detach(), "x": parts[2].detach(), "d": parts[3].detach(),
            "tp": (logit[positive] > 0).sum(), "pos": hits,
            "tn": (hardest < 0).sum(), "neg": torch.tensor(len(hardest)),
        }  # fmt: skip
    return loss, sums


def c_loss(
    case: Tensor, each: Tensor, ill: Tensor, nodule: Tensor, miss: float, missed: float
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the case loss with the miss loss, and the sums of the log line.

    case, ill [N]: probability and truth of cases; each, nodule [N, K]: probability of crops, and
    whether a nodule is known there.
    """
    case = case.clamp(1e-6, 1 - 1e-6)
    loss2 = fn.binary_cross_entropy(case, ill)
    lost = nodule * (each < missed)
    miss_loss = -(lost * torch.log(each + 0.001)).sum() / each.numel()
    with torch.no_grad():
        said, true = case > 0.5, ill > 0.5
        sums = {
            "loss2": loss2.detach(), "miss": miss_loss.detach(), "right": (said == true).sum(),
            "tpn": (said & true).sum(), "fpn": (said & ~true).sum(), "fnn": (~said & true).sum(),
        }  # fmt: skip
    return loss2 + miss * miss_loss, sums
