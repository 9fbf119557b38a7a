"""Write the demo's page and contact sheet."""

import shutil
from pathlib import Path

import cv2
import numpy as np
from markupsafe import Markup

from pipeline.demo.pictures import KINDS
from pipeline.storage.atomic import write_atomically
from training.demo.run import COLUMNS, ROWS, DemoPlan, Outcome, label
from training.report.figures import Chart, colour, new_figure
from training.report.pictures import Card, picture
from training.report.write import render

PAGE_FILE, SHEET_FILE = "demo.html", "contact_sheet.png"
PICTURES_OF_A_KIND = 4
ABOUT = {
    "usual": "Nine of ten objects stand on the background that is typical of their kind.",
    "changed": "The background is drawn independently of the kind.",
}


def write_demo_page(plan: DemoPlan, outcome: Outcome) -> Path:
    """Write `demo.html` and `contact_sheet.png` into `plan.out`; return the page's path."""
    sheet = Path(shutil.copy(plan.work / "method" / SHEET_FILE, plan.out / SHEET_FILE))
    text = "Pictures, their saliency, and the views of one step."
    page = {
        "plan": plan,
        "outcome": outcome,
        "num_kinds": len(KINDS),
        "accuracy": _chart(outcome),
        "rows": [
            (label(row), *(f"{outcome.figures[row][column]:.1f}" for column in COLUMNS))
            for row in ROWS
        ],
        "samples": [_samples(plan.work, column) for column in COLUMNS],
        "sheet": [Card("Contact sheet", [("", [_read(sheet, "the contact sheet")])], text)],
    }
    write_atomically(plan.out / PAGE_FILE, render("demo.html", plan.out, page).encode())
    return plan.out / PAGE_FILE


def _chart(outcome: Outcome) -> Chart:
    figure = new_figure(showlegend=True, yaxis_title="right, %", bargap=0.4)
    for number, column in enumerate(COLUMNS):
        heights, name = [outcome.figures[row][column] for row in ROWS], f"{column} backgrounds"
        look = {"marker_color": colour(number), "hovertemplate": "%{y:.1f} %"}
        figure.add_bar(x=ROWS, y=heights, name=name, **look)
    alt = "; ".join(f"{row}: {outcome.figures[row]}" for row in ROWS)
    return Chart("Right kinds by 20 nearest neighbours", figure, alt)


def _samples(work: Path, column: str) -> Card:
    strips = []
    for folder in sorted((work / "pictures" / column).iterdir()):
        files = sorted(folder.iterdir())[:PICTURES_OF_A_KIND]
        strips.append((folder.name, [_read(file, folder.name) for file in files]))
    return Card(f"{column.capitalize()} backgrounds", strips, ABOUT[column])


def _read(file: Path, alt: str) -> Markup:
    pixels = cv2.imread(str(file))
    assert pixels is not None, f"{file} cannot be read"
    return picture(np.ascontiguousarray(pixels[..., ::-1], np.uint8), alt)
