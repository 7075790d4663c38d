"""Compare the volume that models/ct builds of a DICOM series with one built here.

The other implementation is pydicom and NumPy alone, so that both would have to
make the same mistake. Compressed series are first made plain by GDCM
(`gdcmconv --raw`).

    python trainer/torch/compare_volume.py SERIES_FOLDER VOLUME.raw VOLUME.json

VOLUME.raw holds little-endian int16 HU, x fastest; VOLUME.json the keys Size,
Spacing, Origin, Axes and SOPInstanceUIDs. Prints one line and exits 0 when all
is equal, 1 when not.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pydicom

AIR_HU = -1024  # what padding becomes
GEOMETRY_TOLERANCE = 1e-6  # mm, and of a direction cosine


@dataclass
class Volume:
    hu: np.ndarray  # [nz,ny,nx] int16
    spacing: np.ndarray  # [3] mm along x, y, z
    origin: np.ndarray  # [3] LPS mm, centre of the first voxel
    axes: np.ndarray  # [3,3], row a is the direction of index axis a
    uids: list[str]  # SOP Instance UID of each slice


def read_plain(path: Path, scratch: Path) -> pydicom.Dataset:
    """Reads a file, through gdcmconv where its pixels are compressed."""
    image = pydicom.dcmread(path)
    if image.file_meta.TransferSyntaxUID.is_compressed:
        plain = scratch / path.name
        subprocess.run(["gdcmconv", "--raw", str(path), str(plain)], check=True)
        image = pydicom.dcmread(plain)
    return image


def hounsfield(image: pydicom.Dataset) -> np.ndarray:
    """Returns [ny,nx] int16 HU of one image."""
    stored = image.pixel_array.astype(np.int64)
    shift = 64 - int(image.BitsStored)
    if image.PixelRepresentation == 1:
        stored = stored << shift >> shift
    else:
        stored = stored & ((1 << int(image.BitsStored)) - 1)
    hu = np.rint(stored * float(image.RescaleSlope) + float(image.RescaleIntercept))
    hu = np.clip(hu, -32768, 32767).astype(np.int16)
    if "PixelPaddingValue" in image:
        low = int(image.PixelPaddingValue)
        high = int(image.get("PixelPaddingRangeLimit", low))
        if image.PixelRepresentation == 1:  # a US value of signed pixels
            low, high = ((v + 0x8000) % 0x10000 - 0x8000 for v in (low, high))
        hu[(stored >= min(low, high)) & (stored <= max(low, high))] = AIR_HU
    return hu


def build(folder: Path) -> Volume:
    """Builds the volume of the one CT series in folder."""
    paths = sorted(p for p in folder.iterdir() if p.is_file())
    with tempfile.TemporaryDirectory() as scratch, ThreadPoolExecutor() as pool:
        images = list(pool.map(lambda p: read_plain(p, Path(scratch)), paths))
    row, column = np.array(images[0].ImageOrientationPatient, float).reshape(2, 3)
    normal = np.cross(row, column)
    images.sort(key=lambda i: float(np.dot(normal, np.array(i.ImagePositionPatient, float))))
    first, last = (np.array(images[n].ImagePositionPatient, float) for n in (0, -1))
    dy, dx = (float(s) for s in images[0].PixelSpacing)
    dz = float(np.dot(normal, last - first)) / (len(images) - 1)
    return Volume(
        hu=np.stack([hounsfield(i) for i in images]),
        spacing=np.array([dx, dy, dz]),
        origin=first,
        axes=np.stack([row, column, normal]),
        uids=[str(i.SOPInstanceUID) for i in images],
    )


def differences(want: Volume, raw: Path, description: Path) -> list[str]:
    """Names what the dumped volume has otherwise than want."""
    found = []
    got = json.loads(description.read_text())
    shape = tuple(reversed(got["Size"]))
    if shape != want.hu.shape:
        return [f"size is {shape}, want {want.hu.shape}"]
    for key, value in (("Spacing", want.spacing), ("Origin", want.origin), ("Axes", want.axes)):
        if not np.allclose(got[key], value, rtol=0, atol=GEOMETRY_TOLERANCE):
            found.append(f"{key} is {got[key]}, want {value.tolist()}")
    if got["SOPInstanceUIDs"] != want.uids:
        found.append("the slices are in another order")
    hu = np.fromfile(raw, "<i2").reshape(shape)
    if unequal := np.count_nonzero(hu != want.hu):
        k, j, i = np.argwhere(hu != want.hu)[0]
        found.append(f"{unequal} voxels differ, first ({i},{j},{k}): {hu[k, j, i]}, want {want.hu[k, j, i]}")
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("raw", type=Path)
    parser.add_argument("description", type=Path)
    options = parser.parse_args()
    want = build(options.folder)
    if found := differences(want, options.raw, options.description):
        print("\n".join(found))
        return 1
    print(f"equal: {want.hu.size} voxels, {want.hu.min()} to {want.hu.max()} HU")
    return 0


if __name__ == "__main__":
    sys.exit(main())
