"""Compares `hilum train prepare` with the same steps in plain NumPy and SciPy: output and time.

The steps are read from the manifest that hilum writes: window, linear resampling, convex hull of
each slice of each lung, dilation by a ball, padding outside, bone at the rim, box. The lungs of the
comparison are found by this script in the way of the system that the steps come from (a threshold in
each slice, components by volume), and both sides get them, so that their outputs must be equal to
rounding. The time of hilum is taken with its own search for the lungs.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from scipy import ndimage

LEFT, RIGHT = 3, 4  # labels of seg-lungs-LUNA16
ROUNDING = 1  # largest difference of a voxel: the two sides interpolate in float32 and in float64


@dataclass
class Volume:
    voxels: np.ndarray  # [D,H,W]
    spacing: np.ndarray  # mm, z y x
    origin: np.ndarray  # LPS mm of voxel 0,0,0, x y z
    axes: np.ndarray  # [3,3], row a: direction of index axis a (x, y, z)


@dataclass
class Clock:
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds[name] = self.seconds.get(name, 0) + time.perf_counter() - start


def read_metaimage(path: Path) -> Volume:
    """Reads an uncompressed .mhd of int16 as `hilum train convert` writes it."""
    pairs = (line.split("=", 1) for line in path.read_text().splitlines())
    header = {key.strip(): value.strip() for key, value in pairs}
    if header["ElementType"] != "MET_SHORT" or header["CompressedData"] != "False":
        raise ValueError(f"{path} is not an uncompressed MetaImage of MET_SHORT")
    nx, ny, nz = map(int, header["DimSize"].split())
    voxels = np.fromfile(path.parent / header["ElementDataFile"], "<i2").reshape(nz, ny, nx)
    numbers = {k: np.array(header[k].split(), float) for k in ("ElementSpacing", "Offset", "TransformMatrix")}
    spacing, matrix = numbers["ElementSpacing"][::-1], numbers["TransformMatrix"].reshape(3, 3)
    return Volume(voxels, spacing, numbers["Offset"], matrix)


def write_metaimage(path: Path, like: Volume, labels: np.ndarray) -> None:
    """Writes labels on the grid of a volume."""

    def text(values: np.ndarray) -> str:
        return " ".join(repr(float(v)) for v in values)

    labels.astype("<i2").tofile(path.with_suffix(".raw"))
    path.write_text(
        "ObjectType = Image\nNDims = 3\nBinaryData = True\nBinaryDataByteOrderMSB = False\n"
        f"CompressedData = False\nTransformMatrix = {text(like.axes.ravel())}\nOffset = {text(like.origin)}\n"
        f"ElementSpacing = {text(like.spacing[::-1])}\nDimSize = {' '.join(map(str, labels.shape[::-1]))}\n"
        f"ElementType = MET_SHORT\nElementDataFile = {path.with_suffix('.raw').name}\n"
    )


def along_patient(volume: Volume) -> Volume:
    """Turns the axes to run to the left, to the back and to the head."""
    if not np.array_equal(np.abs(volume.axes).round(), np.eye(3)):
        raise ValueError("this comparison takes axial scans only")
    voxels, origin = volume.voxels, volume.origin.copy()
    for a in range(3):
        if volume.axes[a, a] < 0:
            voxels = np.flip(voxels, 2 - a)
            origin += volume.axes[a] * volume.spacing[2 - a] * (voxels.shape[2 - a] - 1)
    return Volume(voxels, volume.spacing, origin, np.abs(volume.axes))


def slice_lung(hu: np.ndarray, pixel_mm2: float) -> np.ndarray:
    """Returns what may be lung in one slice: larger than 30 mm² and not a line."""
    low = ndimage.gaussian_filter(hu.astype(np.float32), 1, truncate=2) < -600
    parts, count = ndimage.label(low)
    keep = np.zeros(count + 1, bool)
    for n, box in enumerate(ndimage.find_objects(parts), 1):
        y, x = np.nonzero(parts[box] == n)
        if len(x) * pixel_mm2 > 30:
            small, large = np.linalg.eigvalsh(np.cov(np.stack([y, x]), bias=True) + np.eye(2) / 12)
            keep[n] = np.sqrt(1 - small / large) < 0.99
    return keep[parts]


def find_lungs(ct: Volume) -> np.ndarray:
    """Returns labels [D,H,W] uint8 of the left and the right lung."""
    dz, dy, dx = ct.spacing
    inside = np.stack([slice_lung(s, dy * dx) for s in ct.voxels])
    parts, count = ndimage.label(inside)
    keep = np.ones(count + 1, bool)
    keep[0] = False
    for corner in np.ndindex(2, 2, 2):  # the air around the patient
        keep[parts[tuple(-c for c in corner)]] = False
    for edge in (parts[:, 0], parts[:, -1], parts[:, :, 0], parts[:, :, -1]):
        keep[np.unique(edge)] = False
    litres = np.bincount(parts.ravel(), minlength=count + 1) * dz * dy * dx / 1e6
    keep &= (litres > 0.3) & (litres < 8.2)
    lungs = keep[parts]
    eroded = lungs
    for _ in range(23):  # the two lungs fall apart when they are eroded
        parts, count = ndimage.label(eroded)
        sizes = np.bincount(parts.ravel(), minlength=3)
        sizes[0] = 0
        second, first = np.argsort(sizes)[-2:]
        if sizes[second] * 4.8 > sizes[first]:
            break
        eroded = ndimage.binary_erosion(eroded)
    else:
        raise ValueError("the lungs cannot be told apart")
    nearest = ndimage.distance_transform_edt(
        ~np.isin(parts, (first, second)), ct.spacing, return_distances=False, return_indices=True
    )
    parts = parts[tuple(nearest)]
    x = [np.mean(np.nonzero(parts == n)[2]) for n in (first, second)]
    left = first if x[0] > x[1] else second
    labels = np.zeros(lungs.shape, np.uint8)
    for value, part in ((LEFT, parts == left), (RIGHT, parts != left)):
        lung = lungs & part
        closed = ndimage.binary_closing(np.pad(lung, 6), iterations=5)[6:-6, 6:-6, 6:-6]
        filled = np.stack([ndimage.binary_fill_holes(s) for s in closed])
        labels[filled & (labels == 0)] = value
    return labels


def hull(plane: np.ndarray) -> np.ndarray:
    """Returns the pixels of [H,W] bool inside or on the convex hull of those that are set."""
    rows = np.nonzero(plane.any(1))[0]
    points = sorted({(int(x), int(y)) for y in rows for x in np.nonzero(plane[y])[0][[0, -1]]})
    chains: list[list[tuple[int, int]]] = []
    for ordered in (points, points[::-1]):  # Andrew's monotone chain
        chain: list[tuple[int, int]] = []
        for p in ordered:
            while len(chain) >= 2 and cross(chain[-2], chain[-1], p) <= 0:
                chain.pop()
            chain.append(p)
        chains.append(chain[:-1])
    corners = chains[0] + chains[1]
    out = np.zeros_like(plane)
    (x0, y0), (x1, y1) = np.min(points, 0), np.max(points, 0)
    y, x = np.mgrid[y0 : y1 + 1, x0 : x1 + 1]
    inside = np.ones(y.shape, bool)
    for (ax, ay), (bx, by) in zip(corners, corners[1:] + corners[:1], strict=True):
        inside &= (bx - ax) * (y - ay) - (by - ay) * (x - ax) >= 0
    out[y0 : y1 + 1, x0 : x1 + 1] = inside
    return out


def cross(a: tuple[int, int], b: tuple[int, int], c: tuple[int, int]) -> int:
    return (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0])


def prepare(ct: Volume, labels: np.ndarray, spec: dict, clock: Clock) -> tuple[np.ndarray, np.ndarray]:
    """Returns the box [1,D,H,W] uint8 and the LPS position of its first voxel."""
    spacing = np.array(spec["spacing_mm"][::-1], float)
    low, high = spec["window_hu"]
    with clock.step("resample"):
        step = spacing / ct.spacing
        shape = tuple(((np.array(ct.voxels.shape) - 1) / step + 1e-6).astype(int) + 1)
        clipped = np.clip(ct.voxels.astype(np.float64), low, high)
        grid = ndimage.affine_transform(clipped, step, output_shape=shape, order=1, mode="nearest")
        data = ((grid - low) * (255 / (high - low)) + 0.5).astype(np.uint8)
    with clock.step("lungs"):  # the labels of the nearest voxels
        nearest = [
            np.minimum((np.arange(n) * s + 0.5 + 1e-6).astype(int), m - 1)
            for n, s, m in zip(shape, step, ct.voxels.shape, strict=True)
        ]
        labels = labels[np.ix_(*nearest)]
        inside = labels > 0
    with clock.step("mask"):
        grown = np.zeros_like(inside)
        for value in (LEFT, RIGHT):
            for k, plane in enumerate(labels == value):
                if plane.any():
                    convex = hull(plane)
                    grown[k] |= convex if convex.sum() <= spec["hull_growth"] * plane.sum() else plane
        grown = ndimage.distance_transform_edt(~grown, spacing) <= spec["dilate_mm"] + 1e-9
        data[~grown] = spec["pad_value"]
        data[grown & ~inside & (data > spec["bone_value"])] = spec["pad_value"]
    with clock.step("crop"):
        before, after = spec["margin_voxels"]
        first, last = [], []
        for a in range(3):
            line = np.nonzero(inside.any(tuple(n for n in range(3) if n != a)))[0]
            first.append(max(0, line[0] - before))
            last.append(min(shape[a], line[-1] + 1 + after))
        data = np.ascontiguousarray(data[tuple(slice(*s) for s in zip(first, last, strict=True))])[None]
        origin = ct.origin + (np.array(first) * spacing)[::-1] @ ct.axes
    return data, origin


def hilum(program: Path, *arguments: str | Path) -> str:
    command = [str(program), "train", *map(str, arguments)]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def own_seconds(options: argparse.Namespace, scan: Path, scratch: Path) -> dict[str, float]:
    """Returns hilum's seconds by step: the run of the least total."""
    runs = []
    for n in range(options.runs):
        out = scratch / f"timed{n}"
        threads = ("--threads", str(options.threads))
        said = hilum(options.hilum, "prepare", "--json", *threads, "--out", out, scan)
        runs.append(json.loads(said)["seconds"])
    best = min(runs, key=lambda s: sum(s.values()))
    best["lungs"] += best.pop("border")
    best.pop("nodules")
    return best


def table(reference: dict[str, float], ours: dict[str, float], runs: int, threads: int) -> float:
    print(f"hilum: the best of {runs} runs with {threads} threads")
    print(f"{'step':<10} {'NumPy/SciPy s':>14} {'hilum s':>10} {'ratio':>7}")
    for name in ("load", "lungs", "resample", "mask", "crop", "save"):
        a, b = reference[name], ours[name]
        print(f"{name:<10} {a:>14.3f} {b:>10.3f} {a / b:>7.1f}")
    a, b = sum(reference.values()), sum(ours.values())
    print(f"{'all':<10} {a:>14.3f} {b:>10.3f} {a / b:>7.1f}")
    return a / b


def compare(options: argparse.Namespace, scan: Path, scratch: Path) -> bool:
    """Compares one MetaImage; tells whether the outputs are equal to rounding."""
    uid = scan.stem
    clock = Clock()
    with clock.step("load"):
        ct = along_patient(read_metaimage(scan))
    with clock.step("lungs"):
        labels = find_lungs(ct)
    masks, out = scratch / "masks", scratch / "given"
    masks.mkdir()
    write_metaimage(masks / scan.name, ct, labels)
    hilum(options.hilum, "prepare", "--out", out, "--masks", masks, scan)
    manifest = json.loads((out / "manifest.json").read_text())
    data, origin = prepare(ct, labels, manifest["settings"]["prepare"], clock)
    with clock.step("save"):
        np.save(scratch / "reference.npy", data)

    ours = np.load(out / f"{uid}_clean.npy")
    shift = np.abs(np.array(manifest["cases"][0]["grid"]["origin_lps_mm"]) - origin).max()
    print(f"scan {uid}: {' x '.join(map(str, ct.voxels.shape[::-1]))} voxels, box {ours.shape}")
    if ours.shape != data.shape or shift > 1e-6:
        print(f"DIFFERENT: the box is {ours.shape}, the reference's {data.shape}, {shift:g} mm apart")
        return False
    difference = np.abs(ours.astype(int) - data)
    unequal = np.count_nonzero(difference)
    print(
        f"same lungs: {unequal} of {data.size} voxels differ ({100 * unequal / data.size:.4f} %), "
        f"at most by {difference.max()} of 255"
    )
    ratio = table(clock.seconds, own_seconds(options, scan, scratch), options.runs, options.threads)
    if ratio < options.goal:
        print(f"the goal is {options.goal:g} times as fast")
    return bool(difference.max() <= ROUNDING)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("scans", nargs="*", help="DICOM series or MetaImages (default: a phantom)")
    parser.add_argument("--hilum", type=Path, default=Path("bin/hilum"))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--goal", type=float, default=20)
    options = parser.parse_args()
    options.hilum = options.hilum.resolve()
    equal = True
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        scans = options.scans
        if not scans:
            scans = [scratch / "phantom"]
            command = [options.hilum, "phantom", "--out", scans[0]]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        hilum(options.hilum, "convert", "--out", scratch / "scans", *scans)
        for n, scan in enumerate(sorted((scratch / "scans").glob("*.mhd"))):
            case = scratch / str(n)
            case.mkdir()
            equal &= compare(options, scan, case)
    return 0 if equal else 1


if __name__ == "__main__":
    sys.exit(main())
