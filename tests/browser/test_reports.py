"""Open reports in a real browser: on a laptop and a phone, in light and dark, without a network.

`SALMASK_SCREENSHOTS=FOLDER` keeps the screenshots.
"""

import os
import time
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.browser.devtools import Browser, browser, find_browser
from tests.made_sweeps import write_sweep
from tests.runs import run, small_run
from tests.shard_sets import write_shard_set
from training.report.config import ReportConfig
from training.report.write import MOST_BYTES, write_report

pytestmark = pytest.mark.browser
WINDOWS = {"laptop": (1280, 900), "phone": (390, 844)}
LEAST_LETTERS = 10.0
"""Pixels of the text of a chart."""
LEAST_CONTRAST = 4.5
"""Of text to its background: WCAG 2.1, level AA."""
UNFOLD = "document.querySelectorAll('details').forEach(one => { one.open = true; })"
LOOK = """
(() => {
  const all = selector => [...document.querySelectorAll(selector)];
  const start = list => list.map(one => one.outerHTML.slice(0, 100));
  const body = getComputedStyle(document.body);
  return {
    width: document.documentElement.scrollWidth,
    tooWide: start(all("body *").filter(one =>
      !one.closest(".scroll") && one.getBoundingClientRect().right > innerWidth + 1)),
    withoutWords: start(all("img, [role=img]").filter(one =>
      !(one.getAttribute("alt") || one.getAttribute("aria-label")))),
    broken: start([...document.images].filter(one => !one.complete || !one.naturalWidth)),
    notDrawn: start(all("div.chart").filter(one => !one.querySelector(".trace, .y-axis"))),
    uncoloured: start(all("div.chart *").filter(one =>
      (one.getAttribute("style") || "").includes("var(--"))),
    letters: all("div.chart text").filter(one => one.getClientRects().length
      && one.textContent && Number(getComputedStyle(one).fillOpacity))
      .map(one => parseFloat(getComputedStyle(one).fontSize)),
    colours: [body.color, body.backgroundColor].map(text => text.match(/[\\d.]+/g).map(Number)),
  };
})()
"""
CHART = "document.querySelector('div.chart')"
AXIS = f"{CHART}._fullLayout.xaxis.range.map(Number)"
INK = f"getComputedStyle({CHART}.querySelector('.xtick text')).fill"


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("pages")
    write_shard_set(root / "train", num_images=24)
    write_shard_set(root / "val", num_images=12, first_number=100)
    run(small_run(root / "train", root / "run", batch_size=8))
    write_sweep(root / "sweep")
    return {
        name: write_report(ReportConfig(folder=root / name)) for name in ("train", "run", "sweep")
    }


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    program = find_browser()
    if program is None:
        pytest.skip("no chromium on this machine (Debian: apt-get install chromium)")
    with browser(program, tmp_path_factory.mktemp("profile")) as opened:
        yield opened


def contrast(*colours: list[float]) -> float:
    """Ratio of luminances, WCAG 2.1."""
    share = np.array([colour[:3] for colour in colours]) / 255
    linear = np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)
    low, high = np.sort(linear @ [0.2126, 0.7152, 0.0722])
    return float((high + 0.05) / (low + 0.05))


@pytest.mark.parametrize("name", ["train", "run", "sweep"])
def test_a_report(tab: Browser, pages: dict[str, Path], name: str) -> None:
    assert pages[name].stat().st_size < MOST_BYTES
    for device, (width, height) in WINDOWS.items():
        brightness = {}
        for dark in (False, True):
            tab.open(pages[name], width=width, height=height, dark=dark)
            tab.evaluate(UNFOLD)
            assert (tab.complaints(), tab.requests()) == ([], [])
            seen = tab.evaluate(LOOK)
            assert seen["width"] <= width
            faults = ("tooWide", "withoutWords", "broken", "notDrawn", "uncoloured")
            assert [seen[fault] for fault in faults] == [[]] * len(faults)
            assert min(seen["letters"]) >= LEAST_LETTERS
            assert contrast(*seen["colours"]) >= LEAST_CONTRAST
            pixels = np.asarray(Image.open(BytesIO(tab.screenshot())).convert("RGB"))
            if keep := os.environ.get("SALMASK_SCREENSHOTS"):
                path = Path(keep) / f"{name}-{device}-{'dark' if dark else 'light'}.png"
                path.write_bytes(tab.screenshot(whole=True))
            assert pixels.shape == (height, width, 3)
            assert pixels.std() > 5, "an empty page"
            brightness[dark] = float(pixels.mean())
        assert brightness[False] > brightness[True] + 60


def middle(tab: Browser, selector: str) -> tuple[float, float]:
    """Scrolls to the first element of that selector and returns its middle in the window."""
    one = f"document.querySelector('{selector}')"
    tab.evaluate(f"{one}.scrollIntoView({{block: 'center'}})")
    left, top, width, height = tab.evaluate(
        f"(box => [box.x, box.y, box.width, box.height])({one}.getBoundingClientRect())"
    )
    return left + width / 2, top + height / 2


def until(holds: Callable[[], bool]) -> None:
    """Waits at most 10 s."""
    deadline = time.monotonic() + 10
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_charts_show_values_zoom_and_follow_the_theme(tab: Browser, pages: dict[str, Path]) -> None:
    width, height = WINDOWS["laptop"]
    tab.open(pages["sweep"], width=width, height=height, dark=False)
    tab.mouse("Moved", *middle(tab, "div.chart .point"))
    until(lambda: "trial " in tab.evaluate(f"{CHART}.querySelector('.hoverlayer').textContent"))

    low, high = tab.evaluate(AXIS)
    x, y = middle(tab, "div.chart .nsewdrag")
    for kind, dx, dy in (("Moved", 0, 0), ("Pressed", 0, 0), ("Moved", 40, 40), ("Moved", 80, 60)):
        tab.mouse(kind, x + dx, y + dy)
    tab.mouse("Released", x + 80, y + 60)

    def zoomed() -> bool:
        now = tab.evaluate(AXIS)
        return bool(now[1] - now[0] < 0.6 * (high - low))

    until(zoomed)
    light = tab.evaluate(INK)
    tab.shade(dark=True)
    until(lambda: tab.evaluate(INK) != light)
    assert zoomed(), "the theme undid the zoom"


def test_the_checks_see_what_is_wrong(tab: Browser, tmp_path: Path) -> None:
    page = tmp_path / "bad.html"
    page.write_text(
        '<body style="margin:0"><img src="http://127.0.0.1:9/x.png">'
        '<p style="width:2000px">wide</p>'
        "<script>throw new Error('broken')</script></body>"
    )
    tab.open(page, width=390, height=844, dark=False)
    seen = tab.evaluate(LOOK)
    assert seen["width"] > 390
    assert [len(seen[fault]) for fault in ("tooWide", "withoutWords", "broken")] == [1, 1, 1]
    assert tab.requests() == ["http://127.0.0.1:9/x.png"]
    assert any("broken" in text for text in tab.complaints())
