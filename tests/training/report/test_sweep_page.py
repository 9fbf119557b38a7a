import re
from pathlib import Path

import numpy as np
import pytest

from pipeline.core.errors import InputError
from tests.made_sweeps import trials, write_sweep
from training.report.config import ReportConfig
from training.report.page import Charts, Page, Table, Words
from training.report.sweep.axes import parameter_axis
from training.report.sweep.importance import explained_share
from training.report.sweep.page import sweep_page
from training.report.sweep.state import read_sweep
from training.report.write import write_report


def page_of(folder: Path) -> Page:
    return sweep_page(ReportConfig(folder=folder))


def section(page: Page, anchor: str) -> list[object]:
    return list(next(part.blocks for part in page.sections if part.anchor == anchor))


def words(blocks: list[object]) -> str:
    return " ".join(block.text for block in blocks if isinstance(block, Words))


def test_a_finished_sweep_has_all_its_parts(tmp_path: Path) -> None:
    folder = write_sweep(tmp_path / "sweep")
    page = page_of(folder)
    assert [part.anchor for part in page.sections] == [
        "parameters",
        "parallel",
        "importance",
        "trials",
        "plan",
    ]
    (drawn,) = section(page, "parameters")
    assert isinstance(drawn, Charts)
    assert [chart.title for chart in drawn.charts] == [
        f"kNN, % over {name}" for name in ("masks.query_ratio", "optim.lr", "fill", "epochs")
    ]
    table = section(page, "trials")[-1]
    assert isinstance(table, Table)
    objectives = [float(row[1]) for row in table.rows[:-1]]
    assert objectives == sorted(objectives, reverse=True)
    assert table.rows[-1][1:3] == ["–", "failed"]  # noqa: RUF001
    assert "Trial 5 failed: the loss is no longer finite" in words(section(page, "trials"))
    assert "-0.93 (Spearman" in words(section(page, "plan"))
    assert page.summary.startswith("Finished: 24 trials. The highest kNN is ")
    assert "0.05–0.25" in str(table.rows)  # noqa: RUF001


def test_the_best_is_a_finished_trial_where_there_is_one(tmp_path: Path) -> None:
    rows = trials(6)
    for row in rows:
        row["objective"] = float(row["trial"])
    sweep = read_sweep(write_sweep(tmp_path / "max", rows=rows))
    best = sweep.best()
    assert best is not None
    # 5 and 3 were not finished
    assert sweep.scored[best]["trial"] == 4
    plan = {"objective": {"name": "heldout_loss", "mode": "min"}}
    lowest = read_sweep(write_sweep(tmp_path / "min", rows=rows, plan=plan))
    assert lowest.best() == 0


def test_importance_finds_what_decides(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    rate, other = 10 ** rng.uniform(-3, -1, 60), rng.uniform(0, 1, 60)
    fills = [str(name) for name in rng.choice(["mean", "blur"], 60)]
    objective = -((np.log10(rate) + 2) ** 2)
    axes = [
        parameter_axis("rate", rate.tolist(), "log_uniform"),
        parameter_axis("other", other.tolist(), "uniform"),
        parameter_axis("fill", fills, "choice"),
    ]
    shares = [explained_share(axis, objective) for axis in axes]
    assert shares[0] == pytest.approx(1.0)
    assert shares[1] is not None
    assert shares[1] < 0.2
    assert shares[2] is not None
    assert shares[2] < 0.2
    by_fill = np.where(np.array(fills) == "blur", 2.0, 1.0)
    assert explained_share(axes[2], by_fill) == pytest.approx(1.0)


def test_importance_of_too_few_trials_is_not_told() -> None:
    axis = parameter_axis("fill", ["mean", "blur"], "choice")
    assert explained_share(axis, np.array([1.0, 2.0])) is None
    same = parameter_axis("fill", ["mean"] * 5, "choice")
    assert explained_share(same, np.arange(5.0)) is None


@pytest.mark.parametrize(
    ("values", "kind", "named", "log"),
    [
        ([0.01, 0.1], "log_uniform", (), True),
        ([0.1, 0.2], "uniform", (), False),
        ([1, 1000], "grid", (), True),
        ([-1.0, 5.0], "grid", (), False),
        ([True, False], "choice", ("False", "True"), False),
        (["0.2:0.4", "0.05:0.25", "0.4"], "grid", ("0.05–0.25", "0.2–0.4", "0.4"), False),  # noqa: RUF001
        (["mean", None], "choice", ("mean", "none"), False),
    ],
)
def test_axes(values: list[object], kind: str, named: tuple[str, ...], log: bool) -> None:
    axis = parameter_axis("name", values, kind)
    assert (axis.named, axis.log) == (named, log)
    places = axis.unit_places()
    assert places.min() >= 0
    assert places.max() <= 1
    assert len(axis.unit_ticks()) >= 2


def test_a_sweep_without_trials_or_values_says_so(tmp_path: Path) -> None:
    empty = page_of(write_sweep(tmp_path / "empty", num_trials=3, rows=[], finished=False))
    assert empty.summary.startswith("Unfinished: 0 of 3 trials")
    assert "no trial has ended yet" in words(section(empty, "parameters"))
    rows = trials(2)
    for row in rows:
        row["objective"] = None
    page = page_of(write_sweep(tmp_path / "none", rows=rows, finished=False))
    assert "No trial has a value of kNN yet" in words(section(page, "parameters"))


def test_trials_that_do_not_differ(tmp_path: Path) -> None:
    rows = [trials(1)[0] | {"trial": number} for number in range(2)]
    page = page_of(write_sweep(tmp_path / "same", rows=rows))
    assert "All trials have fill" in words(section(page, "parameters"))
    assert "nothing to compare" in words(section(page, "parallel"))
    assert "Too few trials" in words(section(page, "importance"))
    write_report(ReportConfig(folder=tmp_path / "same"))


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("sweep.json", "{", "sweep.json cannot be read"),
        ("sweep.json", "[]", "wanted a JSON object"),
        ("sweep.json", '{"objective": {"name": "knn", "mode": "max"}}', "'space' is missing"),
        ("sweep.json", '{"objective": {"name": "knn"}, "space": {}}', "wants a name and a mode"),
        ("results.parquet", "no parquet", "results.parquet cannot be read"),
        ("summary.json", "", "summary.json cannot be read"),
    ],
)
def test_damaged_files(tmp_path: Path, name: str, text: str, message: str) -> None:
    folder = write_sweep(tmp_path / "sweep", num_trials=2)
    (folder / name).write_text(text)
    with pytest.raises(InputError, match=re.escape(message)):
        write_report(ReportConfig(folder=folder))
    assert not (folder / "report.html").exists()
