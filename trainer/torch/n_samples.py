"""Samples of n-net and c-net from folders of `hilum train prepare`.

Unlike the system they come from, scans are read once and kept, every nodule in a crop is kept from
the negatives, and sample i depends on the seed and i alone. Positions z, y, x in voxels (1 mm).
"""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as fn

from n_loss import targets
from n_net import STRIDE, places
from settings import CNet, NDetector, NSamples, Refused


@dataclass
class Scan:
    """One prepared scan."""

    uid: str
    voxels: np.ndarray  # uint8 [D, H, W]
    nodules: np.ndarray  # float32 [n, 4]: z, y, x, diameter
    ill: bool  # the case's class


def read(
    folders: list[Path], hold_out: str, labels: Path | None = None, *, mapped: bool = False
) -> tuple[list[Scan], dict]:
    """Read scans and how they were prepared. labels: CSV `seriesuid,class`; without it a case with a
    nodule is of class 1. mapped: leave the voxels in their files, for the comparison in bench."""
    classes: dict[str, bool] = {}
    if labels is not None:
        with labels.open(newline="") as f:
            classes = {r["seriesuid"]: r["class"].strip() == "1" for r in csv.DictReader(f)}
    skip = [uid for uid in hold_out.split(",") if uid]
    scans, prepare = [], {}
    for folder in folders:
        try:
            m = json.loads((folder / "manifest.json").read_text())
        except (OSError, ValueError):
            m = {}
        if m.get("format") != "hilum-prepared-1":
            raise Refused(
                f"{folder} is no folder that `hilum train prepare` wrote: it has no manifest.json of its format"
            )
        if prepare and prepare != m["settings"]["prepare"]:
            raise Refused(f"{folder} was prepared in another way than the folders before: prepare all alike")
        prepare = m["settings"]["prepare"]
        for case in m["cases"]:
            uid = case["uid"]
            if any(uid.endswith(end) for end in skip):
                continue
            try:
                voxels = np.load(folder / case["clean"]["name"], mmap_mode="r" if mapped else None)[0]
                label = np.load(folder / case["label"]["name"]).astype(np.float32).reshape(-1, 4)
            except (OSError, ValueError) as err:
                raise Refused(
                    f"a file of case {uid} in {folder} is damaged ({type(err).__name__}): prepare it again"
                ) from None
            nodules = label[label[:, 3] > 0]
            if labels is not None and uid not in classes:
                raise Refused(f"{labels} has no class for case {uid}")
            scans.append(Scan(uid, voxels, nodules, classes.get(uid, len(nodules) > 0)))
    if not scans:
        raise Refused("there is no scan to train on")
    return scans, prepare


def crop(voxels: np.ndarray, start: np.ndarray, side: int, size: int, pad: int) -> Tensor:
    """Return the cube of `side` voxels at start, resized linearly to `size`, as bytes [1, size, size, size]."""
    lo, hi = np.maximum(start, 0), np.minimum(start + side, voxels.shape)
    out = np.full((side,) * 3, pad, np.uint8)
    if (hi > lo).all():
        there = tuple(slice(a, b) for a, b in zip(lo - start, hi - start, strict=True))
        out[there] = voxels[tuple(slice(a, b) for a, b in zip(lo, hi, strict=True))]
    cube = torch.from_numpy(out)[None]
    if side == size:
        return cube
    cube = fn.interpolate(cube[None].float(), size=(size,) * 3, mode="trilinear", align_corners=False)[0]
    return cube.round().to(torch.uint8)


class Crops:
    """Crops for n-net."""

    def __init__(self, scans: list[Scan], s: NDetector, pad: int) -> None:
        self.scans, self.s, self.pad = scans, s, pad
        of: NSamples = s.samples
        self.rows: list[tuple[int, int]] = []  # scan and nodule, as often as an epoch has it
        for k, scan in enumerate(scans):
            for n, row in enumerate(scan.nodules):
                times = (row[3] > of.smallest) + 2 * (row[3] > of.large) + 4 * (row[3] > of.huge)
                self.rows += [(k, n)] * int(times)
        if not self.rows:
            raise Refused(f"no nodule of the label files is larger than samples.smallest={of.smallest:g} mm")
        self.epoch = max(1, round(len(self.rows) / (1 - of.random)))  # samples

    def sample(self, index: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return bytes [1, c, c, c], places [3, c/4, c/4, c/4] and targets [c/4, c/4, c/4, anchors, 5]."""
        seed, s, of = self.s.loop.seed, self.s, self.s.samples
        round_, place = divmod(index, self.epoch)
        place = int(np.random.default_rng([seed, round_]).permutation(self.epoch)[place])
        rng = np.random.default_rng([seed, round_, place])
        size, scale, target = of.crop, 1.0, None
        if place < len(self.rows):
            k, n = self.rows[place]
            scan, target = self.scans[k], self.scans[k].nodules[n]
            lo = min(max(of.scale[0], of.diameters[0] / target[3]), 1.0)
            hi = max(min(of.scale[1], of.diameters[1] / target[3]), 1.0)
            scale = float(rng.uniform(lo, hi))
        else:
            scan = self.scans[rng.integers(len(self.scans))]
        side = round(size / scale)
        scale = size / side
        start = np.array([self.start(rng, k, scan, target, side) for k in range(3)])
        voxels = crop(scan.voxels, start, side, size, self.pad)
        cells = size // STRIDE
        where = places(torch.from_numpy(start), torch.tensor([side] * 3), (cells,) * 3, torch.tensor(scan.voxels.shape))

        def moved(row: np.ndarray) -> np.ndarray:
            return np.append((row[:3] - start + 0.5) * scale - 0.5, row[3] * scale)

        boxes = np.array([moved(row) for row in scan.nodules]).reshape(-1, 4)
        aim = None if target is None else moved(target)
        flips = [k for k in (1, 2) if of.flip and rng.random() < 0.5]
        voxels, where = (t.flip([k + 1 for k in flips]) for t in (voxels, where))
        for box in [*boxes, *([] if aim is None else [aim])]:
            box[flips] = size - 1 - box[flips]
        if of.swap and rng.random() < 0.5:
            voxels, where = voxels.transpose(2, 3), where.transpose(2, 3)
            for box in [*boxes, *([] if aim is None else [aim])]:
                box[[1, 2]] = box[[2, 1]]
        return voxels.contiguous(), where.contiguous(), targets(rng, aim, boxes, cells, s.net.anchors, s.loss)

    def start(self, rng: np.random.Generator, axis: int, scan: Scan, target: np.ndarray | None, side: int) -> int:
        """Return where a crop begins: a nodule is `bound` voxels from its sides, where it fits."""
        bound, length = self.s.samples.bound, scan.voxels.shape[axis]
        if target is None:
            lo, hi = sorted((0, length - side))
            return int(rng.integers(lo, hi + 1))
        c, r = float(target[axis]), float(target[3]) / 2
        lo, hi = int(np.ceil(c + r + bound - side)), int(np.floor(c - r - bound))
        if hi < lo:  # a nodule as large as the crop: about its middle
            return round(c - side / 2) + int(rng.integers(-bound // 2, bound // 2 + 1))
        return int(rng.integers(lo, hi + 1))


class Cases:
    """Crops for c-net around the proposals that n-net made in each scan."""

    def __init__(self, scans: list[Scan], proposals: list[np.ndarray], s: CNet, seed: int, pad: int) -> None:
        self.scans, self.proposals, self.s, self.seed, self.pad = scans, proposals, s, seed, pad

    def sample(self, index: int) -> tuple[Tensor, ...]:
        """Return bytes [K, 1, c, c, c], places [K, 3, ...], present [K], nodule [K] and ill []."""
        s, size = self.s, self.s.crop
        round_, place = divmod(index, len(self.scans))
        rng = np.random.default_rng([self.seed, 1, round_, place])
        k = int(np.random.default_rng([self.seed, 2, round_]).permutation(len(self.scans))[place])
        scan, rows = self.scans[k], self.proposals[k]
        voxels = torch.full((s.top, 1, size, size, size), self.pad, dtype=torch.uint8)
        cells = (size // STRIDE,) * 3
        where = torch.zeros((s.top, 3, *cells))
        present, nodule = torch.zeros(s.top), torch.zeros(s.top)
        odds = np.exp((rows[:, 0] - rows[:, 0].max(initial=-99)) / s.temperature)
        count = min(s.top, len(rows))
        for slot, n in enumerate(rng.choice(len(rows), count, replace=False, p=odds / odds.sum()) if count else []):
            _, *centre, d = rows[n]
            at = np.array(centre) + rng.uniform(-s.jitter, s.jitter, 3) * d
            side = round(size / rng.uniform(*s.scale))
            start = np.rint(at - side / 2).astype(int)
            cube = crop(scan.voxels, start, side, size, self.pad)
            map_ = places(torch.from_numpy(start), torch.tensor([side] * 3), cells, torch.tensor(scan.voxels.shape))
            flips = [axis for axis in (2, 3) if rng.random() < 0.5]
            voxels[slot], where[slot], present[slot] = cube.flip(flips), map_.flip(flips), 1
            far = np.linalg.norm(scan.nodules[:, :3] - np.array(centre), axis=1)
            nodule[slot] = float((far < scan.nodules[:, 3] / 2).any())
        return voxels, where, present, nodule, torch.tensor(float(scan.ill))
