"""Draws the most probable findings of scans, a row for each scan, for a model's card.

    hilum train predict --model MODEL --threshold .05 --out marks.csv --json findings.json FOLDER…
    pictures.py findings.json --out card.png

Each picture is the axial plane of 50 mm that the plugin draws of a finding; what is written bright is reported.
"""

from __future__ import annotations

import argparse
import base64
import io
import json
import sys
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

import artifact
from settings import Refused

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


def pictures(path: Path, most: int, reported: float) -> list[list[Image.Image]]:
    """Draw the first findings of each scan of a file."""
    try:
        scans = json.loads(path.read_text())["scans"]
        return [[picture(finding, reported) for finding in scan["findings"][:most]] for scan in scans]
    except OSError as err:
        raise Refused(f"{path} cannot be read ({err.strerror})") from None
    except (ValueError, KeyError, TypeError, IndexError, ZeroDivisionError):
        raise Refused(f"{path} holds no findings: give what `hilum train predict --json` wrote") from None


def main() -> int:
    """Run the program."""
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("findings", nargs="+", type=Path, help="what `hilum train predict --json` wrote; rows in this order")
    p.add_argument("--out", type=Path, required=True, help="PNG to write")
    p.add_argument("--most", type=int, default=5, help="findings of a scan")
    p.add_argument("--reported", type=float, default=0.5, help="probability from which they are reported")
    a = p.parse_args()
    rows = [row for path in a.findings for row in pictures(path, a.most, a.reported)]
    if a.most < 1 or not rows:
        raise Refused("there is nothing to draw: give findings of at least one scan, and --most from 1")
    whole = Image.new("L", (a.most * SIDE, len(rows) * (HEAD + SIDE)))
    for y, row in enumerate(rows):
        for x, one in enumerate(row):
            whole.paste(one, (x * SIDE, y * (HEAD + SIDE)))
    png = io.BytesIO()
    whole.save(png, "PNG", optimize=True)
    try:
        artifact.write(a.out.parent, {a.out.name: png.getvalue()})
    except OSError as err:
        raise Refused(f"{a.out} cannot be written ({err.strerror})") from None
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except Refused as refused:
        sys.exit(f"error: {refused}")
