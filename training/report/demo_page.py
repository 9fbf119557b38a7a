"""The demo's page and contact sheet."""

import shutil
from pathlib import Path

import cv2
import numpy as np

from pipeline.storage.atomic import write_atomically
from training.demo.run import COLUMNS, ROWS, DemoPlan, Outcome, label
from training.report.page import Card, Facts, Gallery, Page, Section, Strip, Table, Words
from training.report.pictures import picture
from training.report.render import render

PAGE_FILE = "demo.html"
PICTURES_OF_A_KIND = 4
ABOUT = {
    "usual": "Nine of ten objects stand on the background that is typical of their kind.",
    "changed": "The background is drawn independently of the kind.",
}


def write_demo_page(plan: DemoPlan, outcome: Outcome) -> Path:
    """Write `demo.html` and `contact_sheet.png` into `plan.out`; returns the page's path."""
    sheet = plan.out / "contact_sheet.png"
    shutil.copy(plan.work / "method" / "contact_sheet.png", sheet)
    page = Page(
        title="Does the network look at the object?",
        kicker="demo",
        place=str(plan.out),
        summary=" ".join(outcome.words()),
        facts=Facts(
            pairs=(
                ("pictures to train with, without labels", f"{plan.num_train:,}"),
                ("pictures to score with, per column", f"{outcome.num_images:,}"),
                ("seed", str(plan.seed)),
            )
        ),
        sections=(
            Section(
                anchor="accuracy",
                title="Accuracy",
                blocks=(
                    Table(
                        caption="20 nearest neighbours, top-1 in %",
                        head=("network", *(f"{column} backgrounds" for column in COLUMNS)),
                        rows=rows(plan, outcome),
                        numeric=(1, 2),
                    ),
                    Words(text=" ".join(outcome.words())),
                ),
            ),
            Section(
                anchor="pictures",
                title="Pictures",
                blocks=(
                    Gallery(cards=[_samples(plan.work, column) for column in COLUMNS], large=True),
                ),
            ),
            Section(
                anchor="views",
                title="What the method's network sees",
                blocks=(
                    Gallery(
                        cards=(
                            Card(
                                title="Contact sheet",
                                text="Pictures, their saliency, and views of one step.",
                                strips=(Strip((picture(_read(sheet), "the contact sheet"),)),),
                            ),
                        ),
                        large=True,
                    ),
                ),
            ),
        ),
    )
    write_atomically(plan.out / PAGE_FILE, render(page).encode())
    return plan.out / PAGE_FILE


def rows(plan: DemoPlan, outcome: Outcome) -> list[tuple[str, ...]]:
    """The table's cells: a row for each network, a column for each kind of background."""
    return [
        (label(row, plan), *(f"{outcome.figures[row][column]:.1f}" for column in COLUMNS))
        for row in ROWS
    ]


def _samples(work: Path, column: str) -> Card:
    strips = []
    for folder in sorted((work / "pictures" / column).iterdir()):
        files = sorted(folder.iterdir())[:PICTURES_OF_A_KIND]
        strips.append(Strip([picture(_read(file), folder.name) for file in files], folder.name))
    return Card(title=f"{column.capitalize()} backgrounds", text=ABOUT[column], strips=strips)


def _read(file: Path) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    pixels = cv2.imread(str(file))
    assert pixels is not None, f"{file} cannot be read"
    return np.ascontiguousarray(pixels[..., ::-1], np.uint8)
