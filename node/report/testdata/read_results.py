"""Reads the objects of one result with highdicom and pydicom and prints their numbers as JSON."""

import json
import sys

import highdicom as hd
import numpy as np
import pydicom


def measurement_group(group: hd.sr.PlanarROIMeasurementsAndQualitativeEvaluations) -> dict:
    numbers, units = {}, {}
    for m in group.get_measurements():
        numbers[m.name.meaning] = m.value
        units[m.name.meaning] = m.unit.value
    site = group.finding_sites[0]
    return {
        "UID": group.tracking_uid,
        "ID": group.tracking_identifier,
        "Finding": group.finding_type.value,
        "Site": site.topographical_modifier.value
        if site.topographical_modifier
        else site.value.value,
        "Side": site.laterality.value if site.laterality else "",
        "Point": group.roi.value.tolist()[0],
        "Numbers": numbers,
        "Units": units,
    }


def segment(seg: hd.seg.Segmentation, number: int) -> dict:
    d = seg.get_segment_description(number)
    groups = seg.PerFrameFunctionalGroupsSequence
    frames = [
        g for g in groups if g.SegmentIdentificationSequence[0].ReferencedSegmentNumber == number
    ]
    sources = [
        f.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID for f in frames
    ]
    # [slice,row,column,segment]
    pixels = seg.get_pixels_by_source_instance(sources, segment_numbers=[number])
    first = frames[0]
    _, row, column, _ = np.argwhere(pixels)[0]
    shared = seg.SharedFunctionalGroupsSequence[0]
    place = hd.spatial.map_pixel_into_coordinate_system(
        (int(column), int(row)),
        image_position=first.PlanePositionSequence[0].ImagePositionPatient,
        image_orientation=shared.PlaneOrientationSequence[0].ImageOrientationPatient,
        pixel_spacing=shared.PixelMeasuresSequence[0].PixelSpacing,
    )
    return {
        "UID": d.tracking_uid,
        "ID": d.tracking_id,
        "Label": d.segment_label,
        "Voxels": int(pixels.sum()),
        "Slices": sources,
        "First": list(place),
    }


def circles(state: pydicom.Dataset) -> dict:
    out = {}
    for a in state.GraphicAnnotationSequence:
        found = []
        for g in a.GraphicObjectSequence:
            x, y, x2, y2 = g.GraphicData
            found.append({"X": x, "Y": y, "Radius": float(np.hypot(x2 - x, y2 - y))})
        out[a.ReferencedImageSequence[0].ReferencedSOPInstanceUID] = found
    return out


def main(sr: str, seg: str, sc: str, gsps: str) -> None:
    report = hd.sr.srread(sr)
    groups = report.content.get_planar_roi_measurement_groups()
    outlines = hd.seg.segread(seg)
    capture = pydicom.dcmread(sc)
    pixels = capture.pixel_array
    json.dump(
        {
            "Groups": [measurement_group(g) for g in groups],
            "Segments": [segment(outlines, n) for n in outlines.segment_numbers],
            "Capture": {
                "Shape": list(pixels.shape),
                "Burnt": capture.BurnedInAnnotation,
                "Ink": int((pixels.max(axis=2) > 0).sum()),
            },
            "Circles": circles(pydicom.dcmread(gsps)),
        },
        sys.stdout,
    )


main(*sys.argv[1:])
