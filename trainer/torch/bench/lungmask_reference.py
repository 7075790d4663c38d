"""Compares our lung mask with one that SimpleITK makes by another method, and draws both.

The reference: air inside the body in each slice, its large components in three dimensions, without
the trachea (followed down from the top slice by slice), closed by 6 mm and with
the holes of each slice filled. It shares neither code nor grid with the mask in models/ct.
"""

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import SimpleITK as sitk

AIR_HU = -400
CLOSE_MM = 6.0
LEAST_ML = 100.0  # of a part of the lungs
LARGEST_AIRWAY_MM2 = 700.0


def parts_of(slice_mask: sitk.Image) -> tuple[sitk.Image, sitk.LabelShapeStatisticsImageFilter]:
    labels = sitk.ConnectedComponent(slice_mask)
    shapes = sitk.LabelShapeStatisticsImageFilter()
    shapes.Execute(labels)
    return labels, shapes


def by_slice(image: sitk.Image, work: Callable[[sitk.Image], sitk.Image]) -> sitk.Image:
    """Applies a two-dimensional filter to each slice."""
    out = sitk.JoinSeries([work(image[:, :, k]) for k in range(image.GetDepth())])
    out.CopyInformation(image)
    return out


def trachea(air: sitk.Image) -> sitk.Image:
    """Follows the trachea from the head down until it divides or opens into the lungs."""
    out = np.zeros(air.GetSize()[::-1], np.uint8)
    middle = air.GetWidth() / 2
    dx, dy, dz = air.GetSpacing()
    held: np.ndarray | None = None
    for k in reversed(range(air.GetDepth())):
        labels, shapes = parts_of(air[:, :, k])
        parts = sitk.GetArrayFromImage(labels)
        best = 0
        for n in shapes.GetLabels():
            area = shapes.GetPhysicalSize(n)
            if not 40 < area < LARGEST_AIRWAY_MM2:
                continue
            if held is None:
                x = labels.TransformPhysicalPointToContinuousIndex(shapes.GetCentroid(n))[0]
                wanted = abs(x - middle) * dx < 40 and shapes.GetElongation(n) < 2.5
            else:
                wanted = np.count_nonzero((parts == n) & held) * dx * dy > 0.3 * area
            if wanted and (best == 0 or area > shapes.GetPhysicalSize(best)):
                best = n
        if best:
            held = parts == best
            out[k] = held
        elif held is not None:
            break
        elif (air.GetDepth() - k) * dz > 60:
            break  # the scan begins below the trachea
    image = sitk.GetImageFromArray(out)
    image.CopyInformation(air)
    return image


def body(ct: sitk.Image) -> sitk.Image:
    """Returns the patient with all that is in him, without table and blankets."""
    tissue = sitk.BinaryMorphologicalOpening(sitk.BinaryThreshold(ct, -300, 32767, 1, 0), [4, 4, 0])
    parts = sitk.RelabelComponent(sitk.ConnectedComponent(tissue))
    return by_slice(parts == 1, sitk.BinaryFillhole)


def closing(mask: sitk.Image, radius_mm: float) -> sitk.Image:
    """Closes a mask by a ball, in the box around it."""
    margin = [int(radius_mm / s) + 2 for s in mask.GetSpacing()]
    padded = sitk.ConstantPad(mask, margin, margin, 0)
    shapes = sitk.LabelShapeStatisticsImageFilter()
    shapes.Execute(padded)
    x, y, z, nx, ny, nz = shapes.GetBoundingBox(1)
    first = [a - m for a, m in zip((x, y, z), margin, strict=True)]
    size = [n + 2 * m for n, m in zip((nx, ny, nz), margin, strict=True)]
    part = sitk.RegionOfInterest(padded, size, first)
    distance = sitk.SignedMaurerDistanceMap(part, squaredDistance=False, useImageSpacing=True)
    grown = sitk.Cast(distance <= radius_mm, sitk.sitkUInt8)
    distance = sitk.SignedMaurerDistanceMap(grown, squaredDistance=False, useImageSpacing=True)
    closed = sitk.Or(part, sitk.Cast(distance <= -radius_mm, sitk.sitkUInt8))
    whole = sitk.Paste(padded, closed, size, destinationIndex=first)
    return sitk.Crop(whole, margin, margin)


def reference(ct: sitk.Image) -> sitk.Image:
    """Returns the lungs as 0 and 1."""
    air = sitk.BinaryThreshold(ct, -32768, AIR_HU, 1, 0)
    inner = sitk.And(air, body(ct))
    inner = sitk.And(inner, sitk.Not(sitk.BinaryDilate(trachea(inner), [2, 2, 0])))
    opened = sitk.BinaryMorphologicalOpening(inner, [3, 3, 0])  # bowel hangs on by thin bridges
    labels = sitk.RelabelComponent(sitk.ConnectedComponent(opened))
    shapes = sitk.LabelShapeStatisticsImageFilter()
    shapes.Execute(labels)
    largest = shapes.GetPhysicalSize(1)
    kept = [n for n in shapes.GetLabels() if shapes.GetPhysicalSize(n) > max(1000 * LEAST_ML, 0.1 * largest)]
    lungs = sitk.Image(ct.GetSize(), sitk.sitkUInt8)
    lungs.CopyInformation(ct)
    for n in kept:
        lungs = sitk.Or(lungs, sitk.Cast(labels == n, sitk.sitkUInt8))
    lungs = sitk.BinaryReconstructionByDilation(lungs, inner) if kept else lungs
    return by_slice(closing(lungs, CLOSE_MM), sitk.BinaryFillhole)


def picture(ct: sitk.Image, ours: np.ndarray, theirs: np.ndarray, name: Path) -> None:
    """Draws six slices and three coronal cuts: ours red, the reference's green, both yellow."""
    hu = np.clip((sitk.GetArrayFromImage(ct).astype(float) + 1350) / 1500, 0, 1) * 255
    dz, dx = ct.GetSpacing()[2], ct.GetSpacing()[0]
    depth, height, _ = hu.shape
    tall = np.minimum((np.arange(round(depth * dz / dx)) * dx / dz).astype(int), depth - 1)[::-1]
    cuts = [(k, slice(None)) for k in np.linspace(0.12, 0.9, 6) * depth]
    rows = []
    axial = [paint(hu[int(k)], ours[int(k)], theirs[int(k)]) for k, _ in cuts]
    rows.append(np.concatenate(axial[:3], 1))
    rows.append(np.concatenate(axial[3:], 1))
    coronal = [int(height * part) for part in (0.4, 0.5, 0.6)]
    rows.append(np.concatenate([paint(hu[tall, j], ours[tall, j], theirs[tall, j]) for j in coronal], 1))
    image = sitk.GetImageFromArray(np.concatenate(rows, 0), isVector=True)
    sitk.WriteImage(image, str(name))


def paint(grey: np.ndarray, ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    out = np.repeat(grey.astype(np.uint8)[..., None], 3, 2)
    for mask, channel in ((ours, 0), (theirs, 1)):
        edge = sitk.GetArrayFromImage(sitk.LabelContour(sitk.GetImageFromArray(mask.astype(np.uint8)))) > 0
        out[edge] = np.where(np.arange(3) == channel, 255, out[edge] * (out[edge] == 255))
    return out


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("ct", type=Path, help="MetaImage in HU")
    parser.add_argument("mask", type=Path, help="our mask on the same grid, 0 and 1")
    parser.add_argument("--picture", type=Path, help="PNG to write")
    options = parser.parse_args()
    ct = sitk.ReadImage(str(options.ct))
    ours = sitk.GetArrayFromImage(sitk.ReadImage(str(options.mask))) > 0
    theirs = sitk.GetArrayFromImage(reference(ct)) > 0
    ml = float(np.prod(ct.GetSpacing())) / 1000
    both = np.count_nonzero(ours & theirs)
    if options.picture:
        picture(ct, ours, theirs, options.picture)
    result = {
        "dice": 2 * both / max(1, np.count_nonzero(ours) + np.count_nonzero(theirs)),
        "ours_ml": np.count_nonzero(ours) * ml,
        "reference_ml": np.count_nonzero(theirs) * ml,
    }
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
