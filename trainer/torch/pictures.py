"""Draws the most probable findings of scans, a row for each scan, for a model's card.

    hilum train predict --model MODEL --threshold .05 --out marks.csv --json findings.json FOLDER…
    pictures.py findings.json --out card.png

Each picture is the axial plane of 50 mm that the plugin draws of a finding; what is written bright is reported.
"""

from __future__ import annotations

import argparse
import base64
import json
import sys
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

SIDE, HEAD = 132, 16  # pixels of a picture, and of the line above it


def picture(finding: dict[str, Any], reported: float) -> Image.Image:
    """Draw a finding: what was found, and its diameter as a circle."""
    out = Image.new("L", (SIDE, HEAD + SIDE))
    draw = ImageDraw.Draw(out)
    p, d = finding["probability"], finding["diameter_mm"]
    draw.text((1, 1), f"p{p:.2f} {d:.0f} mm", 255 if p >= reported else 130, ImageFont.load_default(12))
    if not finding.get("views"):  # the plugin draws the first ones only
        return out
    view = finding["views"][0]
    plane = Image.frombytes("L", (view["columns"], view["rows"]), base64.b64decode(view["pixels"]))
    out.paste(plane.resize((SIDE, SIDE), Image.Resampling.BICUBIC), (0, HEAD))
    scale = SIDE / view["columns"] / view["spacing"]
    x, y = (scale * (finding["center"][k] - view["origin"][k]) for k in (0, 1))
    r = max(10.0, d / 2 * scale + 2)
    draw.ellipse((x - r, HEAD + y - r, x + r, HEAD + y + r), outline=255)
    return out


def main() -> int:
    """Run the program."""
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("findings", nargs="+", type=Path, help="what `hilum train predict --json` wrote; rows in this order")
    p.add_argument("--out", type=Path, required=True, help="PNG to write")
    p.add_argument("--most", type=int, default=5, help="findings of a scan")
    p.add_argument("--reported", type=float, default=0.5, help="probability from which they are reported")
    a = p.parse_args()
    scans = [scan for path in a.findings for scan in json.loads(path.read_text())["scans"]]
    whole = Image.new("L", (a.most * SIDE, len(scans) * (HEAD + SIDE)))
    for row, scan in enumerate(scans):
        for column, finding in enumerate(scan["findings"][: a.most]):
            whole.paste(picture(finding, a.reported), (column * SIDE, row * (HEAD + SIDE)))
    whole.save(a.out, optimize=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
