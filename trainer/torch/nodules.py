"""Nodules with labels: read from MetaImage crops, laid into cubes that a classifier can be trained on.

A scan at inference surrounds a nodule on all sides; a crop of `nodules/luna16` ends, along z, with the
nodule's own slices. What is missing is made from the nearest slice with the nodule taken out of it, so that
vessels and pleura run on and the nodule has an end, as in a scan. `nodules/cubes` and `nodules/context` come
with their surroundings: on them it is measured whether a classifier takes the made tissue for the real one.

Folders and columns are those of ../shared/data/README.md (LIDC-IDRI, CC BY 3.0). NumPy and SciPy only.
"""

from __future__ import annotations

import csv
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import ndimage

from settings import Refused

SPACING = 0.75  # mm, grid of the cubes: finer than what the network sees, so that resampling twice costs little
SIZE = 72  # voxels: 54 mm, a crop of 48 mm turned a little still has tissue in its corners
WINDOW = (-1000.0, 400.0)  # HU; `nodules/cubes` knows nothing above 400
TEXTURES = ("solid", "part-solid", "ground-glass")
UNKNOWN = -1.0  # a label that no reader gave

_TYPES = {
    "MET_SHORT": "i2",
    "MET_USHORT": "u2",
    "MET_UCHAR": "u1",
    "MET_CHAR": "i1",
    "MET_INT": "i4",
    "MET_FLOAT": "f4",
}


@dataclass
class Nodule:
    """One nodule with what its readers said."""

    name: str  # of its file, for messages
    patient: str  # folds never part a patient
    source: str  # luna16, cubes, context or simulated
    diameter_mm: float
    malignancy: float  # mean vote 1..5, or UNKNOWN
    texture: float  # mean vote 1 (ground-glass) .. 5 (solid), or UNKNOWN
    spiculation: float = UNKNOWN  # mean vote 1..5
    calcified: float = UNKNOWN  # share of readers who saw calcium
    cube: np.ndarray | None = None  # [SIZE,SIZE,SIZE] z,y,x, uint8 over WINDOW, nodule in the middle


def read_metaimage(path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return voxels [D,H,W], spacing (x, y, z) mm and offset (x, y, z) mm of a .mha with its data inside.

    Axes along the patient's, flipped or not, are accepted; flipped ones are turned round, so that z, y, x
    grow towards head, back and left as in LPS.
    """
    data = path.read_bytes()
    fields: dict[str, str] = {}
    at = 0
    while "ElementDataFile" not in fields:
        end = data.find(b"\n", at, at + 4096)
        line = data[at:end].decode("ascii", "replace") if end >= 0 else ""
        key, equals, value = line.partition("=")
        if not equals:
            raise Refused(f"{path} is no MetaImage file: its header breaks off at {line[:40]!r}")
        fields[key.strip()] = value.strip()
        at = end + 1
    try:
        size = [int(v) for v in fields["DimSize"].split()]
        dtype = np.dtype(_TYPES[fields["ElementType"]])
        spacing = np.array([float(v) for v in fields["ElementSpacing"].split()])
        offset = np.array([float(v) for v in fields["Offset"].split()])
    except (KeyError, ValueError) as error:
        raise Refused(f"{path}: the MetaImage header has no usable {error}") from error
    axes = np.array([float(v) for v in fields.get("TransformMatrix", "1 0 0 0 1 0 0 0 1").split()])
    if axes.size != 9 or not np.array_equal(np.abs(axes), np.eye(3).ravel()):
        raise Refused(f"{path}: its axes are not the patient's; crops of oblique scans cannot be read here")
    if fields["ElementDataFile"] != "LOCAL":
        raise Refused(f"{path}: its voxels are in another file; only a .mha with its voxels inside can be read")
    wanted = int(np.prod(size)) * dtype.itemsize
    raw = data[at:]
    if fields.get("CompressedData", "False") == "True":
        try:
            raw = zlib.decompressobj().decompress(raw, wanted + 1)
        except zlib.error as error:
            raise Refused(f"{path}: the compressed voxels are damaged: {error}") from error
    if len(raw) != wanted:
        raise Refused(f"{path}: {len(raw)} bytes of voxels, the header says {wanted}")
    big = fields.get("BinaryDataByteOrderMSB", "False") == "True"
    voxels = np.frombuffer(raw, dtype.newbyteorder(">" if big else "<")).reshape(size[::-1])
    for axis in range(3):
        if axes[axis * 4] < 0:
            voxels = np.flip(voxels, 2 - axis)
            offset[axis] -= (size[axis] - 1) * spacing[axis]
    return voxels.astype(dtype), spacing, offset


def load(data: Path) -> list[Nodule]:
    """Read every nodule below `data`/nodules, or below `data`: luna16; cubes and context if there."""
    folder = data / "nodules" if (data / "nodules").is_dir() else data
    if not (folder / "luna16.csv").is_file():
        raise Refused(f"{folder} has no luna16.csv: it must be the folder with luna16 and its table")
    found = [_luna16(folder / "luna16", row) for row in _rows(folder / "luna16.csv")]
    if (folder / "cubes.csv").is_file():
        found += [_cube(folder / "cubes", row) for row in _rows(folder / "cubes.csv")]
    if (folder / "context.csv").is_file():
        found += [_context(folder / "context", row) for row in _rows(folder / "context.csv")]
    return found


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def _votes(text: str) -> list[float]:
    return [float(v) for v in text.split("|") if v]


def _luna16(folder: Path, row: dict[str, str]) -> Nodule:
    path = folder / row["file"]
    hu, spacing, offset = read_metaimage(path)
    mask, _, _ = read_metaimage(path.with_name(path.stem + "_mask.mha"))
    if mask.shape != hu.shape:
        raise Refused(f"{path}: its mask has another size, {mask.shape} and not {hu.shape}")
    centre = np.array([float(row["coord" + axis]) for axis in "XYZ"])
    margin = int(np.ceil(SIZE * SPACING / spacing[2]))
    extended = extend(hu.astype(np.float32), mask > 0, margin)
    middle = ((centre - offset) / spacing)[::-1] + np.array([margin, 0, 0])
    calcification = _votes(row["calcification"])
    return Nodule(
        name=row["file"],
        patient=row["patient"],
        source="luna16",
        diameter_mm=float(row["diameter_mm"]),
        malignancy=float(row["malignancy_mean"]),
        texture=float(np.mean(_votes(row["texture"]))),
        spiculation=float(np.mean(_votes(row["spiculation"]))),
        calcified=float(np.mean([vote < 6 for vote in calcification])),  # 6 is "absent"
        cube=sample_cube(extended, middle, spacing[::-1]),
    )


def _cube(folder: Path, row: dict[str, str]) -> Nodule:
    path = folder / row["file"]
    hu, spacing, offset = read_metaimage(path)
    # The table's centre is the mask's, in mm from the middle of the cube.
    centre = np.array([float(row["centre" + axis]) for axis in "XYZ"])
    return Nodule(
        name=row["file"],
        patient=row["patient"],
        source="cubes",
        diameter_mm=float(row["equivalent_diameter_mm"]),
        malignancy=float(row["malignancy"]),
        texture=float(row["texture"]),
        spiculation=float(row["spiculation"]),
        cube=sample_cube(hu.astype(np.float32), ((centre - offset) / spacing)[::-1], spacing[::-1]),
    )


def _context(folder: Path, row: dict[str, str]) -> Nodule:
    path = folder / row["file"]
    hu, spacing, _ = read_metaimage(path)
    middle = np.array([(float(row[a + "0"]) + float(row[a + "1"]) - 1) / 2 for a in "zyx"])
    return Nodule(
        name=f"{row['file']}#{row['nodule']}",
        patient=row["patient"],
        source="context",
        diameter_mm=float(row["diameter_mm"]),
        malignancy=float(row["malignancy"]),
        texture=float(row["texture"]),
        spiculation=float(row["spiculation"]),
        cube=sample_cube(hu.astype(np.float32), middle, spacing[::-1]),
    )


def extend(hu: np.ndarray, mask: np.ndarray, margin: int) -> np.ndarray:
    """Return hu [D,H,W] with `margin` slices more at both ends of z, in which the nodule (mask) is gone.

    Each new slice is the last one of its end with the nodule's pixels, two around them included, replaced by
    a blurred mean of what is beside them, and with noise like the scan's in them.
    """
    rng = np.random.default_rng(hu.size)  # the same crop gives the same tissue
    ends = []
    for index in (0, -1):
        gone = ndimage.binary_dilation(mask[index], iterations=2)
        keep = (~gone).astype(np.float32)
        tissue = hu[index]
        blurred, weight = ndimage.gaussian_filter(tissue * keep, 3), ndimage.gaussian_filter(keep, 3)
        far = np.median(tissue[keep > 0]) if keep.any() else -850.0
        smooth = np.where(weight > 1e-3, blurred / np.maximum(weight, 1e-3), far)
        rough = tissue - ndimage.median_filter(tissue, 3)
        noise = rng.normal(0, min(float(np.std(rough[keep > 0])) if keep.any() else 15.0, 40.0), tissue.shape)
        end = np.where(gone, smooth + noise, tissue)
        ends.append(np.repeat(end[None], margin, axis=0))
    return np.concatenate([ends[0], hu, ends[1]]).astype(np.float32)


def sample_cube(hu: np.ndarray, middle: np.ndarray, spacing: np.ndarray) -> np.ndarray:
    """Return the cube [SIZE]*3 uint8 around voxel `middle` of hu with voxels of `spacing` mm, all z, y, x."""
    steps = (np.arange(SIZE) - (SIZE - 1) / 2) * SPACING
    axes = [middle[a] + steps / spacing[a] for a in range(3)]
    cube = ndimage.map_coordinates(hu, np.meshgrid(*axes, indexing="ij"), order=1, mode="nearest")
    low, high = WINDOW
    return np.round((np.clip(cube, low, high) - low) * (255 / (high - low))).astype(np.uint8)


def texture_class(vote: float) -> int:
    """Return the index in TEXTURES of a mean vote: to 2 ground-glass, below 4 part-solid, else solid; or -1.

    LIDC-IDRI's scale names 1 (non-solid), 3 (part-solid) and 5 (solid); 2 and 4 lie between.
    """
    if vote == UNKNOWN:
        return -1
    return 2 if vote <= 2 else 1 if vote < 4 else 0


def folds(nodules: list[Nodule], count: int, seed: int) -> np.ndarray:
    """Return each nodule's fold, 0..count-1. A patient is in one fold, wherever a nodule comes from."""
    patients = sorted({n.patient for n in nodules})
    if len(patients) < count:
        raise Refused(f"{len(patients)} patients cannot be split into {count} folds")
    order = np.random.default_rng(seed).permutation(len(patients))
    fold = {patients[p]: i % count for i, p in enumerate(order)}
    return np.array([fold[n.patient] for n in nodules])


def simulate(count: int, seed: int) -> list[Nodule]:
    """Draw nodules that need no data: balls, the malignant ones larger and with spicules, in noise.

    They are for tests of the road, not for a network that is used.
    """
    rng = np.random.default_rng(seed)
    steps = (np.arange(SIZE) - (SIZE - 1) / 2) * SPACING
    z, y, x = np.meshgrid(steps, steps, steps, indexing="ij")
    distance = np.sqrt(z * z + y * y + x * x)
    found = []
    for index in range(count):
        malignant = index % 2 == 1
        texture = (5.0, 5.0, 3.0, 1.0)[int(rng.integers(4))]
        diameter = float(np.exp(rng.normal(2.2 if malignant else 1.7, 0.3)))
        radius = np.full_like(distance, diameter / 2)
        if malignant:
            for axis in rng.normal(size=(12, 3)):
                cosine = (axis[0] * z + axis[1] * y + axis[2] * x) / (np.linalg.norm(axis) * (distance + 1e-6))
                radius += 0.3 * diameter * np.clip(cosine - 0.85, 0, None) / 0.15
        ball = 1 / (1 + np.exp((distance - radius) / 0.6))
        core = 1 / (1 + np.exp((distance - radius / 2) / 0.6))
        peak = {5.0: 900 * ball, 3.0: 300 * ball + 600 * core, 1.0: 300 * ball}[texture]
        vessel = 800 * np.exp(-((y - 0.6 * diameter) ** 2 + (x - 2) ** 2) / 2)
        hu = -870 + np.maximum(peak, vessel) + rng.normal(0, 20, distance.shape)
        low, high = WINDOW
        cube = np.round((np.clip(hu, low, high) - low) * (255 / (high - low))).astype(np.uint8)
        found.append(
            Nodule(
                f"simulated {index}",
                f"patient {index}",
                "luna16",
                diameter,
                4.5 if malignant else 1.5,
                texture,
                4.0 if malignant else 1.0,
                0.0,
                cube,
            )
        )
    return found
