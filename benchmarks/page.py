"""How quick the page is for whoever looks at it, in a real browser, on a slow line and without one: `make benchmark`.

    python benchmarks/page.py [--rounds 3]

On the slow line, 10 Mbit/s down, 5 up, 60 ms: from what the page says to what it shows, and from a click on another
background to its picture. Without one: the same clicks, the first paint, and how far things move while the page loads.
The results lie in results/page.json and between their marks in the README.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, Page, expect, sync_playwright
from speed import RESULTS, ROOT, update_readme, write_photo

LINE = {"offline": False, "latency": 60, "downloadThroughput": 10e6 / 8, "uploadThroughput": 5e6 / 8}
SIZES = {2: (1600, 1250), 12: (4000, 3000)}  # by megapixels
BACKGROUNDS = ("White", "Black", "Light grey", "Blur", "Transparent")
WINDOW = {"width": 1280, "height": 800}
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]

# When the status first says so, and when the cutout's picture has been painted after it, in ms of the page's clock.
WATCH = """() => {
  const seen = (window.seen = {});
  const status = document.querySelector("#status");
  new MutationObserver(() => {
    if (/Done in/.test(status.innerText)) seen.said ??= performance.now();
  }).observe(status, { childList: true, subtree: true, characterData: true });
  const shown = () => requestAnimationFrame(() => (seen.shown = performance.now()));
  document.querySelector("#cutout").addEventListener("load", shown, true);
}"""
# From a click on a background to its picture.
SWITCH = """(label) => new Promise((resolve) => {
  const radio = [...document.querySelectorAll("#background label")].find((one) => one.innerText.trim() === label);
  const start = performance.now();
  const shown = () => requestAnimationFrame(() => resolve(performance.now() - start));
  document.querySelector("#cutout").addEventListener("load", shown, { once: true, capture: true });
  radio.querySelector("input").click();
})"""
LOAD = """() => ({
  paint: performance.getEntriesByName("first-contentful-paint")[0].startTime,
  shift: window.shift,
})"""
SHIFT = """
window.shift = 0;
new PerformanceObserver((list) => {
  for (const entry of list.getEntries()) if (!entry.hadRecentInput) window.shift += entry.value;
}).observe({ type: "layout-shift", buffered: true });
"""


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """The app, as a user starts it."""
    environment = os.environ | {
        "RMBG_WEIGHTS": "isnet-general-use",
        "PYTHONUNBUFFERED": "1",
        "GRADIO_TEMP_DIR": str(folder),
    }
    app = subprocess.Popen([sys.executable, "app.py"], cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)
    try:
        assert app.stdout
        yield next(found[0] for line in app.stdout if (found := re.search(r"http://[\d.]+:\d+", line)))
    finally:
        app.terminate()
        app.wait(20)


@contextmanager
def opened(browser: Browser, url: str, slow: bool) -> Iterator[Page]:
    context = browser.new_context(viewport=WINDOW)  # type: ignore[arg-type]
    page = context.new_page()
    page.add_init_script(SHIFT)
    page.goto(url)
    expect(page.locator("#photo")).to_be_visible()
    page.wait_for_timeout(1000)
    if slow:
        session = context.new_cdp_session(page)
        session.send("Network.enable")
        session.send("Network.emulateNetworkConditions", LINE)
    yield page
    context.close()


def look(page: Page, photo: Path) -> dict[str, Any]:
    """Seconds from what the status says to the picture, and for each switch of the background."""
    page.evaluate(WATCH)
    page.locator("#photo input[type=file]").set_input_files(photo)
    page.wait_for_function("window.seen.said && window.seen.shown", timeout=120_000)
    seen = page.evaluate("window.seen")
    page.wait_for_timeout(2000)
    switches = []
    for label in BACKGROUNDS:
        switches.append(page.evaluate(SWITCH, label) / 1000)
        page.wait_for_timeout(1500)
    return {"after": max(0.0, (seen["shown"] - seen["said"]) / 1000), "switches": switches}


def measure(rounds: int) -> dict[str, Any]:
    results: dict[str, Any] = {"date": date.today().isoformat()}
    path = shutil.which("chromium") or shutil.which("chromium-browser")
    with tempfile.TemporaryDirectory() as name, served(Path(name)) as url, sync_playwright() as playwright:
        photos = {mp: write_photo(Path(name) / f"{mp}.jpg", size, "coffee.jpg") for mp, size in SIZES.items()}
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
        loads = []
        for _ in range(rounds):
            with opened(browser, url, slow=False) as page:
                loads.append(page.evaluate(LOAD))
        results["paint"] = statistics.median(load["paint"] / 1000 for load in loads)
        results["shift"] = max(load["shift"] for load in loads)
        for slow in (True, False):
            for mp, photo in photos.items():
                looks = []
                for _ in range(rounds):
                    with opened(browser, url, slow) as page:
                        looks.append(look(page, photo))
                switches = [seconds for one in looks for seconds in one["switches"]]
                results[f"{'slow' if slow else 'loopback'} {mp}"] = {
                    "after": statistics.median(one["after"] for one in looks),
                    "switch": statistics.median(switches),
                    "longest": max(switches),
                }
        browser.close()
    return results


def table(results: dict[str, Any]) -> str:
    lines = ["| | slow line | loopback |", "| --- | --- | --- |"]
    for mp in SIZES:
        for what, key in (("cutout shown after \"Done\"", "after"), ("another background, median", "switch"),
                          ("the longest of them", "longest")):  # fmt: skip
            cells = [f"{results[f'{line} {mp}'][key]:.2f} s" for line in ("slow", "loopback")]
            lines.append(f"| {mp} MP: {what} | {' | '.join(cells)} |")
    lines.append("")
    lines.append(
        f"First paint after {results['paint']:.2f} s; layout shift while it loads {results['shift']:.3f}. Slow line: "
        f"10 Mbit/s down, 5 up, 60 ms. {results['date']}, 2 cores."
    )
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    results = measure(parser.parse_args().rounds)
    (RESULTS / "page.json").write_text(json.dumps(results, indent=1) + "\n")
    print(table(results))
    update_readme("page", table(results))


if __name__ == "__main__":
    main()
