"""A report as a reader finds it: what its HTML says, by section."""

import json
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from training.report.config import ReportConfig
from training.report.write import PAGES, kind_of, render

VOID = ("img", "meta", "link", "path", "circle")


def new_section() -> Any:  # noqa: ANN401
    """The text, the tables, the charts and the pictures of a section."""
    lists = ("tables", "marked", "alts", "labels", "cards", "overlays")
    return SimpleNamespace(text="", charts={}, **{name: [] for name in lists})


class Page(HTMLParser):
    """Reads a page; `self["anchor"]` is a section, `self.facts` and `self.summary` its head.

    Every tag must be closed in its order.
    """

    def __init__(self, html: str) -> None:
        super().__init__()
        self.sections: dict[str, Any] = {"": new_section()}
        self.facts: dict[str, str] = {}
        self.summary = ""
        self.links: list[str] = []
        self._here = self.sections[""]
        self._open: list[tuple[str, str]] = []
        self._words = ""
        self._row: list[str] = []
        self._figure: dict[str, Any] = {}
        self.feed(html)
        assert self._open == []

    def __getitem__(self, anchor: str) -> Any:  # noqa: ANN401
        return self.sections[anchor]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self._words = ""
        self.links += [given[name] for name in ("src", "href", "xlink:href") if name in given]
        if tag == "section":
            self._here = self.sections[given["id"]] = new_section()
        elif tag == "table":
            self._here.tables.append([])
        elif tag == "tr":
            self._row = []
        elif tag == "img":
            self._here.alts.append(given["alt"])
        elif given.get("class") == "chart":
            title = self._here.labels.pop()
            self._here.charts[title] = {"alt": given["aria-label"], **self._figure}
        elif given.get("class") == "f":
            self._here.overlays.append(given["d"])
        if tag not in VOID:
            self._open.append((tag, given.get("class", "")))

    def handle_data(self, data: str) -> None:
        self._words += data
        if not self._open or self._open[-1][0] not in ("script", "style"):
            self._here.text += " ".join(data.split()) + " "

    def handle_endtag(self, tag: str) -> None:
        if tag in VOID:
            return
        opened, kind = self._open.pop()
        assert opened == tag, f"<{opened}> is closed by </{tag}>"
        words = " ".join(self._words.split())
        if tag in ("th", "td"):
            self._row.append(words)
        elif tag == "tr":
            self._here.tables[-1].append(tuple(self._row))
            self._here.marked += [tuple(self._row)] * (kind == "marked")
        elif tag == "dt":
            self._fact = words
        elif tag == "dd":
            self.facts[self._fact] = words
        elif tag == "h3":
            self._here.cards.append(words)
        elif tag == "figcaption":
            self._here.labels.append(words)
        elif tag == "script" and words.startswith("{"):
            self._figure = json.loads(words)
        if kind == "summary":
            self.summary = words


def page_of(folder: Path, **options: Any) -> Page:  # noqa: ANN401
    """The page of a folder, rendered without being written."""
    config = ReportConfig(folder=folder, **options)
    template, fill = PAGES[kind_of(folder)]
    return Page(render(template, folder, fill(config)))
