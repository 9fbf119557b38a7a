"""Write the demo's page and contact sheet."""

import shutil
from pathlib import Path

import cv2
import numpy as np
import plotly.graph_objects as go

from pipeline.storage.atomic import write_atomically
from training.demo.run import COLUMNS, ROWS, DemoPlan, Outcome, label
from training.report.figures import Chart, colour, new_figure
from training.report.pictures import Card, Pixels, Strip, picture
from training.report.write import render

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
    shown = picture(_read(sheet), "the contact sheet")
    text = "Pictures, their saliency, and the views of one step."
    page = {
        "title": "Does the network look at the object?",
        "kicker": "demo",
        "folder": plan.out,
        "summary": " ".join(outcome.words()),
        "facts": (
            ("pictures to train with, without labels", f"{plan.num_train:,}"),
            ("pictures to score with, per column", f"{outcome.num_images:,}"),
            ("seed", str(plan.seed)),
        ),
        "accuracy": _chart(outcome),
        "head": ("network", *(f"{column} backgrounds" for column in COLUMNS)),
        "rows": rows(plan, outcome),
        "samples": [_samples(plan.work, column) for column in COLUMNS],
        "sheet": [Card("Contact sheet", (Strip((shown,)),), text)],
    }
    write_atomically(plan.out / PAGE_FILE, render("demo.html", page).encode())
    return plan.out / PAGE_FILE


def rows(plan: DemoPlan, outcome: Outcome) -> list[tuple[str, ...]]:
    """The cells of the table: a row for each network, a column for each kind of background."""
    return [
        (label(row, plan), *(f"{outcome.figures[row][column]:.1f}" for column in COLUMNS))
        for row in ROWS
    ]


def _chart(outcome: Outcome) -> Chart:
    bars = [
        go.Bar(
            x=ROWS,
            y=[outcome.figures[row][column] for row in ROWS],
            name=f"{column} backgrounds",
            marker_color=colour(number),
            hovertemplate="%{y:.1f} %",
        )
        for number, column in enumerate(COLUMNS)
    ]
    figure = new_figure(*bars, showlegend=True, yaxis_title="top-1, %", bargap=0.4)
    alt = "; ".join(f"{row}: {outcome.figures[row]}" for row in ROWS)
    return Chart(title="Accuracy of 20 nearest neighbours", figure=figure, alt=alt)


def _samples(work: Path, column: str) -> Card:
    strips = []
    for folder in sorted((work / "pictures" / column).iterdir()):
        files = sorted(folder.iterdir())[:PICTURES_OF_A_KIND]
        strips.append(Strip([picture(_read(file), folder.name) for file in files], folder.name))
    return Card(f"{column.capitalize()} backgrounds", strips, ABOUT[column])


def _read(file: Path) -> Pixels:
    pixels = cv2.imread(str(file))
    assert pixels is not None, f"{file} cannot be read"
    return np.ascontiguousarray(pixels[..., ::-1], np.uint8)
