"""A report as a reader finds it: what its HTML says, by section."""

import json
import re
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element, fromstring

from training.report.config import ReportConfig
from training.report.write import PAGES, kind_of, render


def words(element: Element | None) -> str:
    assert element is not None
    return " ".join(" ".join(element.itertext()).split())


def cells(rows: list[Element]) -> list[tuple[str, ...]]:
    return [tuple(map(words, row)) for row in rows]


class Section:
    """The text, the tables, the charts and the pictures of a section."""

    def __init__(self, root: Element) -> None:
        self.charts: dict[str, dict[str, Any]] = {}
        self.labels = []
        for figure in root.iter("figure"):
            caption, script = words(figure.find("figcaption")), figure.find(".//script")
            if script is None:
                self.labels.append(caption)
                continue
            alt = figure.findall(".//div[@class='chart']")[0].attrib["aria-label"]
            self.charts[caption] = {"alt": alt, **json.loads(script.text or "")}
            script.clear()
        self.text = words(root)
        self.tables = [cells(table.findall(".//tr")) for table in root.iter("table")]
        self.marked = cells(root.findall(".//tr[@class='marked']"))
        self.alts = [image.attrib["alt"] for image in root.iter("img")]
        self.cards = list(map(words, root.iter("h3")))
        self.overlays = [path.attrib["d"] for path in root.findall(".//path[@class='f']")]


class Page:
    """`page["anchor"]` is a section, `page.facts` and `page.summary` its head.

    Every tag must be closed in its order.
    """

    def __init__(self, html: str) -> None:
        html = re.sub(r"<(script|style)>.*?</\1>", "", html, flags=re.DOTALL)
        html = re.sub(r"<((?:meta|link|img)\b[^>]*)>", r"<\1/>", html).replace("&nbsp;", " ")
        html = re.sub(r'(<script type="[^>]*>)(.*?)(</script>)', r"\1<![CDATA[\2]]>\3", html)
        root = fromstring(html.removeprefix("<!DOCTYPE html>").strip())
        self.sections = {one.attrib["id"]: Section(one) for one in root.iter("section")}
        self.facts = {words(fact[0]): words(fact[1]) for fact in root.findall(".//dl/div")}
        self.summary = words(root.find(".//p[@class='summary']"))
        attributes = [(name, value) for one in root.iter() for name, value in one.items()]
        self.links = [value for name, value in attributes if name in ("src", "href")]

    def __getitem__(self, anchor: str) -> Section:
        return self.sections[anchor]


def page_of(folder: Path, **options: Any) -> Page:  # noqa: ANN401
    """The page of a folder, rendered without being written."""
    config = ReportConfig(folder=folder, **options)
    template, fill = PAGES[kind_of(folder)]
    return Page(render(template, folder, fill(config)))
