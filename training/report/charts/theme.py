"""How charts look: small, without a frame, in colours that the page's theme decides.

Matplotlib writes colours as numbers. The ones given here are placeholders, which become CSS
variables of the page when the drawing is inlined: so one drawing is legible in light and dark.
"""

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from training.report.page import SERIES

INK, MUTED, RULE, PAPER = "#010200", "#010201", "#010202", "#010203"
_ROLES = ("ink", "muted", "rule", "card")
LEVELS = 255

NARROW, WIDE = (4.3, 2.6), (9.2, 3.6)
"""Inches of drawings, at 72 units an inch: a phone shows the first at about its own size."""

_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "font.family": "DejaVu Sans",
    "font.size": 10.5,
    "text.color": INK,
    "axes.labelcolor": MUTED,
    "axes.labelsize": 10.5,
    "axes.edgecolor": RULE,
    "axes.linewidth": 1.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.formatter.use_mathtext": False,
    "axes.unicode_minus": True,
    "grid.color": RULE,
    "grid.linewidth": 0.8,
    "xtick.color": RULE,
    "ytick.color": RULE,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "ytick.major.size": 0,
    "ytick.minor.size": 0,
    "xtick.minor.size": 0,
    "lines.linewidth": 1.9,
    "lines.solid_capstyle": "round",
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
}


def series_colour(number: int) -> str:
    """The placeholder of a series' colour; they begin again after the last."""
    return f"#0103{number % SERIES:02x}"


def level_colour(share: float) -> str:
    """The placeholder of a place on the scale from low (0) to high (1)."""
    return f"#0104{round(min(max(share, 0.0), 1.0) * LEVELS):02x}"


@contextmanager
def drawing(size: tuple[float, float] = NARROW) -> Iterator[tuple[Figure, Axes]]:
    """A figure with one pair of axes, in the page's style."""
    with rc_context(_STYLE):
        figure = Figure(figsize=size, layout=ConstrainedLayoutEngine(w_pad=0.02, h_pad=0.02))
        FigureCanvasSVG(figure)
        yield figure, figure.add_subplot()


def to_svg(figure: Figure, name: str, alt: str) -> str:
    """A figure as inline SVG.

    Args:
        figure: made in `drawing`, whose block is still open.
        name: of the chart, its own on the page: ids are made from it.
        alt: what it shows.
    """
    out = io.StringIO()
    with rc_context({"svg.hashsalt": name}):
        figure.savefig(out, format="svg", metadata={"Date": None})
    svg = out.getvalue()
    svg = svg[svg.index("<svg") :]
    view_box = re.search(r'viewBox="[^"]+"', svg)
    assert view_box is not None
    body = svg[svg.index(">") + 1 :].replace("\n", "")
    body = re.sub(r"<metadata>.*?</metadata>", "", body)
    # its only rule would hold for the whole page; the page's own style has it for charts
    body = re.sub(r"<style[^>]*>.*?</style>", "", body)
    body = re.sub(r"<!--.*?-->", "", body)
    body = re.sub(r"font-family: ?[^;\"]+;? ?", "", body)
    body = re.sub(r"font: ?([\d.]+px) [^;\"]+", r"font-size: \1", body)
    used = set(re.findall(r"(?:url\(#|href=\"#)([^)\"]+)", body))
    body = re.sub(r' id="([^"]+)"', lambda m: f' id="{name}-{m[1]}"' if m[1] in used else "", body)
    body = re.sub(r'(url\(#|href="#)', rf"\g<1>{name}-", body)
    body = re.sub(r"#010([234])([0-9a-f]{2})", _themed, body)
    label = alt.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")
    return f'<svg class="chart" {view_box[0]} role="img" aria-label="{label}">{body}'


def _themed(match: re.Match[str]) -> str:
    kind, number = match[1], int(match[2], 16)
    if kind == "2":
        return f"var(--{_ROLES[number]})"
    if kind == "3":
        return f"var(--s{number})"
    return f"color-mix(in oklab, var(--high) {100 * number / LEVELS:.0f}%, var(--low))"
