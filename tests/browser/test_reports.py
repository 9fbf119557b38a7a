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
LAPTOP, PHONE = (1280, 900), (390, 844)
LEAST_LETTERS = 10.0
"""Pixels of the text of a chart."""
LEAST_CONTRAST = 4.5
"""Of text to its background: WCAG 2.1, level AA."""

WIDER_THAN_THE_WINDOW = """
[...document.querySelectorAll("body *")].filter(one =>
  !one.closest(".scroll") && one.getBoundingClientRect().right > innerWidth + 1)
  .map(one => one.outerHTML.slice(0, 120))
"""
WITHOUT_WORDS = """
[...document.querySelectorAll("img, [role=img]")].filter(one =>
  !(one.getAttribute("alt") || one.getAttribute("aria-label"))).map(one =>
  one.outerHTML.slice(0, 80))
"""
BROKEN_PICTURES = """
[...document.images].filter(one => !one.complete || !one.naturalWidth).length
"""
NOT_DRAWN = """
[...document.querySelectorAll("div.chart")].filter(one =>
  one.querySelectorAll(".trace, .y-axis").length === 0)
  .map(one => one.ariaLabel.slice(0, 80))
"""
SMALL_TEXT = """
[...document.querySelectorAll("div.chart text")].filter(one => one.getClientRects().length
  && one.textContent && Number(getComputedStyle(one).fillOpacity))
  .map(one => parseFloat(getComputedStyle(one).fontSize))
"""
UNCOLOURED = """
[...document.querySelectorAll("div.chart *")].filter(one =>
  (one.getAttribute("style") || "").includes("var(--")).length
"""
UNFOLD = "document.querySelectorAll('details').forEach(one => { one.open = true; })"
COLOURS = """
(() => {
  const colour = getComputedStyle(document.body);
  return [colour.color, colour.backgroundColor].map(text => text.match(/[\\d.]+/g).map(Number));
})()
"""


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


def contrast(ink: list[float], paper: list[float]) -> float:
    """Ratio of luminances, WCAG 2.1."""

    def luminance(colour: list[float]) -> float:
        share = np.array(colour[:3]) / 255
        linear = np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)
        return float(linear @ [0.2126, 0.7152, 0.0722])

    high, low = sorted((luminance(ink), luminance(paper)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def pixels(png: bytes) -> "np.ndarray[tuple[int, ...], np.dtype[np.uint8]]":
    return np.asarray(Image.open(BytesIO(png)).convert("RGB"))


@pytest.mark.parametrize("name", ["train", "run", "sweep"])
def test_a_report(tab: Browser, pages: dict[str, Path], name: str) -> None:
    page = pages[name]
    assert page.stat().st_size < MOST_BYTES
    brightness = {}
    for size, window in (("laptop", LAPTOP), ("phone", PHONE)):
        for dark in (False, True):
            tab.open(page, width=window[0], height=window[1], dark=dark)
            tab.evaluate(UNFOLD)
            assert tab.complaints() == []
            assert tab.requests() == []
            assert tab.evaluate(WITHOUT_WORDS) == []
            assert tab.evaluate(BROKEN_PICTURES) == 0
            assert tab.evaluate("document.documentElement.scrollWidth") <= window[0]
            assert tab.evaluate(WIDER_THAN_THE_WINDOW) == []
            assert tab.evaluate(NOT_DRAWN) == []
            assert tab.evaluate(UNCOLOURED) == 0
            assert min(tab.evaluate(SMALL_TEXT)) >= LEAST_LETTERS
            assert contrast(*tab.evaluate(COLOURS)) >= LEAST_CONTRAST
            png = tab.screenshot()
            keep = os.environ.get("SALMASK_SCREENSHOTS")
            if keep:
                shade = "dark" if dark else "light"
                (Path(keep) / f"{name}-{size}-{shade}.png").write_bytes(tab.screenshot(whole=True))
            seen = pixels(png)
            assert seen.shape == (window[1], window[0], 3)
            assert seen.std() > 5, "an empty page"
            brightness[size, dark] = float(seen.mean())
    for size in ("laptop", "phone"):
        assert brightness[size, False] > brightness[size, True] + 60


CHART = "document.querySelector('div.chart')"
AXIS = f"{CHART}._fullLayout.xaxis.range.map(Number)"
INK = f"getComputedStyle({CHART}.querySelector('.xtick text')).fill"


def middle(tab: Browser, selector: str) -> tuple[float, float]:
    """Scrolls to the first element of that selector and returns its middle in the window."""
    one = f"document.querySelector('{selector}')"
    tab.evaluate(f"{one}.scrollIntoView({{block: 'center'}})")
    left, top, width, height = tab.evaluate(
        f"(box => [box.x, box.y, box.width, box.height])({one}.getBoundingClientRect())"
    )
    return left + width / 2, top + height / 2


def test_charts_show_values_zoom_and_follow_the_theme(tab: Browser, pages: dict[str, Path]) -> None:
    tab.open(pages["sweep"], width=LAPTOP[0], height=LAPTOP[1], dark=False)
    tab.mouse("Moved", *middle(tab, "div.chart .point"))
    until(lambda: "trial " in tab.evaluate(f"{CHART}.querySelector('.hoverlayer').textContent"))

    low, high = tab.evaluate(AXIS)
    x, y = middle(tab, "div.chart .nsewdrag")
    tab.mouse("Moved", x, y)
    tab.mouse("Pressed", x, y)
    tab.mouse("Moved", x + 40, y + 40)
    tab.mouse("Moved", x + 80, y + 60)
    tab.mouse("Released", x + 80, y + 60)

    def zoomed() -> bool:
        now = tab.evaluate(AXIS)
        return bool(now[1] - now[0] < 0.6 * (high - low))

    until(zoomed)
    light = tab.evaluate(INK)
    tab.shade(dark=True)
    until(lambda: tab.evaluate(INK) != light)
    assert zoomed(), "the theme undid the zoom"


def until(holds: Callable[[], bool]) -> None:
    """Waits at most 10 s."""
    deadline = time.monotonic() + 10
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_the_checks_see_what_is_wrong(tab: Browser, tmp_path: Path) -> None:
    page = tmp_path / "bad.html"
    page.write_text(
        '<body style="margin:0"><img src="http://127.0.0.1:9/x.png">'
        '<p style="width:2000px">wide</p>'
        "<script>throw new Error('broken')</script></body>"
    )
    tab.open(page, width=390, height=844, dark=False)
    assert tab.evaluate("document.documentElement.scrollWidth") > 390
    assert len(tab.evaluate(WIDER_THAN_THE_WINDOW)) == 1
    assert len(tab.evaluate(WITHOUT_WORDS)) == 1
    assert tab.evaluate(BROKEN_PICTURES) == 1
    assert tab.requests() == ["http://127.0.0.1:9/x.png"]
    assert any("broken" in text for text in tab.complaints())
