"""Take the pictures of docs/gallery.md: every page of TensorBoard, one run by two libraries side by side.

    python examples/gallery.py /tmp/gallery/tensorboardX --library tensorboardX
    python examples/gallery.py /tmp/gallery/fastlog
    python tools/gallery.py --left /tmp/gallery/tensorboardX --right /tmp/gallery/fastlog

Needs what tools/screenshot.py needs, and Pillow.
"""

from __future__ import annotations

import argparse
import io
import tempfile
import time
from pathlib import Path

from PIL import Image
from screenshot import start_browser, start_tensorboard
from selenium import webdriver

PAGES = (
    "scalars",
    "custom_scalars",
    "images",
    "audio",
    "text",
    "graphs",
    "distributions",
    "histograms",
    "pr_curves",
    "hparams",
    "mesh",
    "projector",
)
SECONDS = 9  # until the slowest page is drawn
COLORS = 128  # of the palette: keeps a picture under 200 KB
GAP = 8


def take(browser: webdriver.Chrome, url: str, page: str) -> Image.Image:
    browser.get("about:blank")  # an address that differs in its fragment alone would not be loaded anew
    browser.get(f"{url}#{page}")
    time.sleep(SECONDS)
    return Image.open(io.BytesIO(browser.get_screenshot_as_png())).convert("RGB")


def side_by_side(left: Image.Image, right: Image.Image) -> Image.Image:
    both = Image.new("RGB", (left.width + GAP + right.width, left.height))
    both.paste(left, (0, 0))
    both.paste(right, (left.width + GAP, 0))
    return both.quantize(COLORS)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--left", type=Path, required=True)
    parser.add_argument("--right", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("docs/images/gallery"))
    parser.add_argument("--pages", nargs="+", default=PAGES)
    parser.add_argument("--size", type=int, nargs=2, default=(900, 640), metavar=("WIDTH", "HEIGHT"))
    args = parser.parse_args()

    args.out.mkdir(parents=True, exist_ok=True)
    addresses = [start_tensorboard(logdir) for logdir in (args.left, args.right)]
    with tempfile.TemporaryDirectory() as profile:
        browser = start_browser(profile, *args.size)
        try:
            for page in args.pages:
                left, right = (take(browser, address, page) for address in addresses)
                side_by_side(left, right).save(args.out / f"{page}.png", optimize=True)
        finally:
            browser.quit()


if __name__ == "__main__":
    main()
