"""Compares two folders of DICOM files element by element, pixels included; prints what differs."""

import sys
from pathlib import Path

import pydicom


def objects(folder: str) -> dict[str, pydicom.Dataset]:
    out = {}
    for name in Path(folder).iterdir():
        dataset = pydicom.dcmread(name)
        out[dataset.SOPInstanceUID] = dataset
    return out


def main(want_folder: str, got_folder: str) -> int:
    want, got = objects(want_folder), objects(got_folder)
    bad = 0
    for uid, dataset in want.items():
        if uid not in got:
            print(f"{dataset.SOPClassUID.name} is missing")
        elif dataset.to_json_dict() != got[uid].to_json_dict():
            for element in dataset:
                other = got[uid].get(element.tag)
                if other is None or other != element:
                    print(f"{dataset.SOPClassUID.name}: {element.tag} {element.keyword} differs")
        elif "PixelData" in dataset and (dataset.pixel_array != got[uid].pixel_array).any():
            print(f"{dataset.SOPClassUID.name}: pixels differ")
        else:
            continue
        bad += 1
    print(f"{len(want)} objects compared, {bad} differ")
    return min(bad + (not want), 1)


sys.exit(main(*sys.argv[1:]))
