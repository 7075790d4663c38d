"""Reads what the detector is trained on: prepared scans, and folders of real nodules.

A folder that `hilum train prepare --no-mask` wrote gives backgrounds, with the nodules of their label
files; a folder with NAME.csv beside NAME/ gives nodules (crops and masks as MetaImage), and
context.csv with context/ nodules with all that surrounds them, which also serve as backgrounds.
Voxels are uint8 of the HU window, arrays z, y, x.
"""

from __future__ import annotations

import csv
import json
import zlib
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from scipy import ndimage

from loss import IGNORED, NODULE
from settings import Compose, Refused

AIR_HU = -500.0  # darker is air or lung
NEAR = 24  # mm; distances to the lung's edge are kept up to this
LEAST_LUNG = 2500  # voxels of 2 mm, 20 ml: less is no lung


@dataclass
class Background:
    """One volume that crops are cut from."""

    name: str
    voxels: np.ndarray  # uint8
    edge: np.ndarray  # int8: mm to the lung's edge, positive inside
    truth: np.ndarray  # float32 [n, 5]: z, y, x, diameter, NODULE or IGNORED
    slice_mm: float  # thickness of the scan's slices
    context: bool = False
    inside: np.ndarray = field(default_factory=lambda: np.empty((0, 3), np.int16))  # voxels in the lung
    rim: np.ndarray = field(default_factory=lambda: np.empty((0, 3), np.int16))  # within 6 mm of its edge
    mined: np.ndarray = field(default_factory=lambda: np.empty((0, 4), np.float32))  # z, y, x, probability


@dataclass
class Nodule:
    """One real nodule, on a 1 mm grid, in the middle of its crop."""

    patient: str
    hu: np.ndarray  # float16
    mask: np.ndarray  # uint8, 0..255 of a smooth mask
    diameter: float  # mm
    slice_mm: float


@dataclass
class Sources:
    """All that crops are composed from, and how the scans were prepared."""

    backgrounds: list[Background]
    nodules: list[Nodule]
    prepare: dict


def window(hu: np.ndarray, limits: tuple[float, float]) -> np.ndarray:
    """Return HU as the window's bytes, as models/ct rounds them."""
    lo, hi = limits
    return ((np.clip(hu, lo, hi) - lo) * (255 / (hi - lo)) + 0.5).astype(np.uint8)


def lung_edge(voxels: np.ndarray, limits: tuple[float, float], whole: bool) -> np.ndarray:
    """Return the distance to the lung's edge in mm, positive inside, within ±NEAR.

    The lungs are the air that does not reach the sides of the box (`whole`: the box holds the whole
    chest), with vessels and small nodules filled in. It only says where to paste, so it is found on a grid
    of 2 mm: all of LUNA16 takes minutes instead of two hours.
    """
    limit = window(np.array(AIR_HU), limits)
    air = voxels[::2, ::2, ::2] < limit
    if whole:
        parts, count = ndimage.label(brightest(voxels) < limit)  # a thin wall parts the lung from the air outside
        keep = np.bincount(parts.ravel(), minlength=count + 1) > LEAST_LUNG
        keep[0] = False
        for side in (parts[:, 0], parts[:, -1], parts[:, :, 0], parts[:, :, -1]):
            keep[side] = False
        if count:
            air = ndimage.binary_dilation(keep[parts]) & air
    lung = ndimage.binary_closing(np.pad(air, 3), iterations=2)[3:-3, 3:-3, 3:-3]
    inner = ndimage.distance_transform_edt(lung, sampling=2)
    outer = ndimage.distance_transform_edt(~lung, sampling=2)
    edge = np.clip(inner - outer, -NEAR, NEAR).astype(np.int8)
    for axis, size in enumerate(voxels.shape):
        edge = edge.repeat(2, axis).take(range(size), axis)
    return edge


def brightest(voxels: np.ndarray) -> np.ndarray:
    """Return the largest of each 2³ voxels; the last of an odd number stands for two."""
    for axis in range(3):
        even = voxels.take(range(0, voxels.shape[axis], 2), axis)
        odd = voxels.take(range(1, voxels.shape[axis], 2), axis)
        rest = even.take([-1] * (even.shape[axis] - odd.shape[axis]), axis)
        voxels = np.maximum(even, np.concatenate([odd, rest], axis))
    return voxels


def places(b: Background) -> Background:
    """List the voxels that crops are centred at."""
    every = np.argwhere(b.edge > 2)
    rim = np.argwhere((b.edge > -3) & (b.edge < 6))
    b.inside = every[:: max(1, len(every) // 200_000)].astype(np.int16)
    b.rim = rim[:: max(1, len(rim) // 200_000)].astype(np.int16)
    return b


def held(patient: str, s: Compose) -> bool:
    """Tell whether a patient is in the fold that is left out."""
    return s.fold >= 0 and zlib.crc32(patient.encode()) % s.folds == s.fold


def read(folders: list[Path], s: Compose, excluded: Path | None = None) -> Sources:
    """Read all folders."""
    out = Sources([], [], {})
    known = ignored_rows(excluded)
    tables = []
    for folder in folders:
        found = False
        if (folder / "manifest.json").exists():
            prepared(folder, s, known, out)
            found = True
        for table in sorted(folder.glob("*.csv")):
            if (folder / table.stem).is_dir():
                tables.append(table)
                found = True
        if not found:
            raise Refused(f"{folder} holds neither prepared scans (manifest.json) nor nodules (NAME.csv beside NAME/)")
    limits = tuple(out.prepare.get("window_hu", (-1200.0, 600.0)))
    for table in tables:
        if table.stem == "context":
            contexts(table, s, limits, out)
        else:
            nodules(table, s, out)
    if not out.backgrounds:
        raise Refused("there is no scan to train on: name a folder that `hilum train prepare --no-mask` wrote")
    return out


def summary(found: Sources) -> str:
    """Say in a line what there is to train on."""
    scans = sum(not b.context for b in found.backgrounds)
    patients = len({n.patient for n in found.nodules})
    return (
        f"{scans} scans, {len(found.backgrounds) - scans} surroundings, "
        f"{len(found.nodules)} nodules of {patients} patients"
    )


def read_mined(path: Path, found: Sources) -> int:
    """Add the false positives that mine.py wrote to their backgrounds; returns how many."""
    count = 0
    try:
        with np.load(path) as f:
            for b in found.backgrounds:
                if b.name in f.files:
                    b.mined = f[b.name].astype(np.float32).reshape(-1, 4)
                    count += len(b.mined)
    except (OSError, ValueError) as err:
        raise Refused(f"{path} is no file of mine.py ({type(err).__name__})") from None
    if not count:
        raise Refused(f"{path} has no false positives in these scans: mine them in the scans that are trained on")
    return count


def ignored_rows(path: Path | None) -> dict[str, list[list[float]]]:
    """Read findings that count neither way, x, y, z in LPS mm and diameter, by series."""
    rows: dict[str, list[list[float]]] = {}
    if path is not None:
        with path.open(newline="") as f:
            for r in csv.DictReader(f):
                d = float(r["diameter_mm"])
                at = [float(r["coordX"]), float(r["coordY"]), float(r["coordZ"]), d if d > 0 else 6.0]
                rows.setdefault(r["seriesuid"], []).append(at)
    return rows


def prepared(folder: Path, s: Compose, known: dict[str, list[list[float]]], out: Sources) -> None:
    """Read a folder of prepared scans."""
    m = json.loads((folder / "manifest.json").read_text())
    if m.get("format") != "hilum-prepared-1":
        raise Refused(f"{folder}/manifest.json is not of a folder that `hilum train prepare` wrote")
    prepare = m["settings"]["prepare"]
    if out.prepare and out.prepare != prepare:
        raise Refused(f"{folder} was prepared in another way than the folders before: prepare all alike")
    out.prepare = prepare
    skip = [uid for uid in s.hold_out.split(",") if uid]
    for case in m["cases"]:
        if any(case["uid"].endswith(uid) for uid in skip):
            continue
        voxels = np.load(folder / case["clean"]["name"])[0]
        label = np.load(folder / case["label"]["name"])
        truth = [[*row, NODULE] for row in label if row[3] > 0]
        grid = case["grid"]
        axes, origin, spacing = (np.array(grid[k]) for k in ("axes_lps", "origin_lps_mm", "spacing_xyz_mm"))
        for x, y, z, d in known.get(case["uid"], []):
            at = (axes @ (np.array([x, y, z]) - origin)) / spacing
            truth.append([*at[::-1], d / spacing[0], IGNORED])
        edge = lung_edge(voxels, tuple(prepare["window_hu"]), True)
        out.backgrounds.append(
            places(
                Background(
                    case["uid"],
                    voxels,
                    edge,
                    np.array(truth, np.float32).reshape(-1, 5),
                    max(case["source"]["grid"]["spacing_xyz_mm"][2], 1.5),
                )
            )
        )


def image(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Read a MetaImage: voxels z, y, x and spacing z, y, x in mm."""
    img = sitk.ReadImage(str(path))
    return sitk.GetArrayFromImage(img), np.array(img.GetSpacing()[::-1])


def nodules(table: Path, s: Compose, out: Sources) -> None:
    """Read a table of real nodules with their crops and masks."""
    with table.open(newline="") as f:
        rows = list(csv.DictReader(f))
    for r in rows:
        if held(r["patient"], s):
            continue
        path = table.parent / table.stem / r["file"]
        hu, spacing = image(path)
        mask, _ = image(path.with_name(path.stem + "_mask.mha"))
        mask = mask > 0
        if not mask.any():
            continue
        d = float(r.get("diameter_mm") or r.get("equivalent_diameter_mm") or 0)
        if d <= 0:
            d = float((6 / np.pi * mask.sum() * spacing.prod()) ** (1 / 3))
        where = np.argwhere(mask)
        lo = np.maximum(0, where.min(0) - np.ceil(4 / spacing).astype(int))
        hi = where.max(0) + 1 + np.ceil(4 / spacing).astype(int)
        cut = tuple(slice(a, b) for a, b in zip(lo, hi, strict=True))
        hu, mask = hu[cut].astype(np.float32), mask[cut].astype(np.float32)
        pad = [(int(np.ceil(4 / v)),) * 2 for v in spacing]  # room for what a blur spreads
        hu = ndimage.zoom(np.pad(hu, pad, mode="edge"), spacing, order=1, grid_mode=True, mode="nearest")
        mask = ndimage.zoom(np.pad(mask, pad), spacing, order=1, grid_mode=True, mode="grid-constant")
        centre = ndimage.center_of_mass(mask)
        half = int(np.ceil(max(max(c, n - 1 - c) for c, n in zip(centre, mask.shape, strict=True))))
        box = [(round(half - c), 2 * half + 1 - n - round(half - c)) for c, n in zip(centre, mask.shape, strict=True)]
        box = [(max(0, a), max(0, b)) for a, b in box]
        out.nodules.append(
            Nodule(
                r["patient"],
                np.pad(hu, box, mode="edge").astype(np.float16),
                np.pad(mask * 255, box).clip(0, 255).astype(np.uint8),
                d,
                float(spacing[0]),
            )
        )


def contexts(table: Path, s: Compose, limits: tuple[float, float], out: Sources) -> None:
    """Read nodules with their surroundings: three readers make a nodule, fewer are ignored."""
    by: dict[str, list[dict[str, str]]] = {}
    with table.open(newline="") as f:
        for r in csv.DictReader(f):
            if not held(r["patient"], s):
                by.setdefault(r["file"], []).append(r)
    for name, rows in by.items():
        hu, spacing = image(table.parent / table.stem / name)
        voxels = window(ndimage.zoom(hu.astype(np.float32), spacing, order=1, grid_mode=True, mode="nearest"), limits)
        truth = []
        for r in rows:
            at = [((int(r[a + "0"]) + int(r[a + "1"])) / 2) * sp - 0.5 for a, sp in zip("zyx", spacing, strict=True)]
            kind = NODULE if int(r["readers"]) >= 3 else IGNORED
            truth.append([*at, float(r["diameter_mm"]) + (0 if kind == NODULE else 4), kind])
        out.backgrounds.append(
            places(
                Background(
                    name, voxels, lung_edge(voxels, limits, False), np.array(truth, np.float32), float(spacing[0]), True
                )
            )
        )
