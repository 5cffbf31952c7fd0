"""Take the pictures of TensorBoard's Histograms and Distributions tabs that the documentation shows.

    python tools/screenshot.py --logdir runs/bert --tags 'pooler.dense|classifier.weight' --size 1460 850

Needs TensorBoard, Selenium, Chromium and its driver (Debian: chromium, chromium-driver). TensorBoard runs in
this process, on a free port; the browser is headless and has a fresh profile.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
import urllib.parse
from pathlib import Path

from selenium import webdriver
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.support.ui import WebDriverWait
from tensorboard import program

CHARTS = {"histograms": "vz-histogram-timeseries", "distributions": "vz-distribution-chart"}
BROWSER_FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
)

# TensorBoard draws inside nested shadow roots, which no CSS selector crosses.
COUNT_DRAWN_CHARTS = """
    const elements = (root) => [...root.querySelectorAll('*')].flatMap(
        (element) => element.shadowRoot ? [element, ...elements(element.shadowRoot)] : [element]);
    const drawn = (chart) => chart.shadowRoot
        && elements(chart.shadowRoot).some((part) => part.localName === 'path' && part.getAttribute('d'));
    return elements(document).filter((chart) => chart.localName === arguments[0] && drawn(chart)).length;
"""


def start_tensorboard(logdir: Path) -> str:
    """Its address, e.g. http://localhost:6006/."""
    server = program.TensorBoard()
    server.configure(argv=[None, "--logdir", str(logdir), "--port", "0"])
    return str(server.launch())


def start_browser(profile: str, width: int, height: int) -> webdriver.Chrome:
    options = Options()
    for flag in (*BROWSER_FLAGS, f"--user-data-dir={profile}", f"--window-size={width},{height}"):
        options.add_argument(flag)
    return webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))


def take(browser: webdriver.Chrome, url: str, tab: str, tags: str, out: Path) -> None:
    """Open a tab with the charts whose tags match, wait until they are drawn, save ``out/<tab>.png``."""
    browser.get("about:blank")  # an address that differs in its fragment alone would not be loaded anew
    browser.get(f"{url}#{tab}&tagFilter={urllib.parse.quote(tags)}")
    WebDriverWait(browser, 60).until(lambda b: b.execute_script(COUNT_DRAWN_CHARTS, CHARTS[tab]) > 0)
    time.sleep(3)  # the charts ease into place
    browser.save_screenshot(str(out / f"{tab}.png"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--logdir", type=Path, required=True)
    parser.add_argument("--tags", default="", help="regular expression that the shown tags match")
    parser.add_argument("--out", type=Path, default=Path("docs/images"))
    parser.add_argument("--size", type=int, nargs=2, default=(1480, 900), metavar=("WIDTH", "HEIGHT"))
    args = parser.parse_args()

    args.out.mkdir(parents=True, exist_ok=True)
    url = start_tensorboard(args.logdir)
    with tempfile.TemporaryDirectory() as profile:
        browser = start_browser(profile, *args.size)
        try:
            for tab in CHARTS:
                take(browser, url, tab, args.tags, args.out)
        finally:
            browser.quit()


if __name__ == "__main__":
    main()
