"""What a report is made of: sections of blocks, which know nothing of HTML."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

Mark = Literal["line", "dash", "dots", "dot", "box", "ring"]
SERIES = 8
"""Colours that tell series apart."""


class Key(NamedTuple):
    """One entry of a chart's legend.

    Attributes:
        label: what is drawn so.
        colour: number of a series, or the name of another colour of the page.
        mark: how it is drawn.
    """

    label: str
    colour: int | str
    mark: Mark = "line"


@dataclass(frozen=True, kw_only=True)
class Chart:
    """A drawing.

    Attributes:
        title: what is drawn, with its unit.
        svg: inline SVG, whose colours follow the page's theme.
        alt: what it shows, in words.
        keys: legend; empty where there is but one series.
        note: a line below.
        narrow: another drawing of the same for narrow screens; empty: the same one.
        wide: whether it takes the page's whole width.
    """

    title: str
    svg: str
    alt: str
    keys: tuple[Key, ...] = ()
    note: str = ""
    narrow: str = ""
    wide: bool = False


@dataclass(frozen=True, kw_only=True)
class Charts:
    """Drawings beside each other, below each other where the screen is narrow."""

    kind: ClassVar[str] = "charts"
    charts: Sequence[Chart]


@dataclass(frozen=True, kw_only=True)
class Words:
    """A paragraph.

    Attributes:
        text: plain.
        tone: `missing` says what is not there, `warning` what is wrong.
    """

    kind: ClassVar[str] = "words"
    text: str
    tone: Literal["plain", "missing", "warning"] = "plain"


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table of text.

    Attributes:
        caption: what it holds.
        head: names of the columns, units included.
        rows: cells.
        numeric: columns that are numbers, by index: these stand to the right.
        marked: index of the row that stands out, or none.
    """

    kind: ClassVar[str] = "table"
    caption: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    numeric: Sequence[int] = ()
    marked: int | None = None


@dataclass(frozen=True, kw_only=True)
class Facts:
    """Short answers beside each other: label and value."""

    kind: ClassVar[str] = "facts"
    pairs: Sequence[tuple[str, str]]


@dataclass(frozen=True, kw_only=True)
class Picture:
    """An image, inlined.

    Attributes:
        src: a data URI.
        alt: what it shows.
        width: pixels.
        height: pixels.
        overlay: inline SVG over it; empty: none.
        label: a word below it.
        crisp: whether its pixels stay squares where it is enlarged.
    """

    src: str
    alt: str
    width: int
    height: int
    overlay: str = ""
    label: str = ""
    crisp: bool = False


class Strip(NamedTuple):
    """Pictures beside each other, with what they have in common."""

    pictures: Sequence[Picture]
    text: str = ""


@dataclass(frozen=True, kw_only=True)
class Card:
    """Strips of pictures about one thing."""

    title: str
    strips: Sequence[Strip]
    text: str = ""


@dataclass(frozen=True, kw_only=True)
class Gallery:
    """Cards.

    Attributes:
        cards: in order.
        large: whether a card is wide: two beside each other at most.
        keys: what overlays mean.
    """

    kind: ClassVar[str] = "gallery"
    cards: Sequence[Card]
    large: bool = False
    keys: Sequence[Key] = ()


@dataclass(frozen=True, kw_only=True)
class Folded:
    """Blocks that are shown when a reader asks for them."""

    kind: ClassVar[str] = "folded"
    summary: str
    blocks: Sequence["Block"]


Block = Charts | Words | Table | Facts | Gallery | Folded


@dataclass(frozen=True, kw_only=True)
class Section:
    """A part with a heading, which the table of contents names.

    Attributes:
        anchor: its name in links.
        title: heading.
        blocks: in order.
    """

    anchor: str
    title: str
    blocks: Sequence[Block]


@dataclass(frozen=True, kw_only=True)
class Page:
    """A whole report.

    Attributes:
        title: what it is about.
        kicker: what kind of thing that is.
        place: the folder it describes.
        summary: the outcome in a sentence or two.
        facts: the most important numbers.
        sections: in order.
    """

    title: str
    kicker: str
    place: str
    summary: str
    facts: Facts
    sections: Sequence[Section]


def missing(text: str) -> Words:
    """A line that says what is not there."""
    return Words(text=text, tone="missing")
