import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.core.errors import InputError
from tests.made_sweeps import trials, write_sweep
from tests.training.report.pages import Page, page_of
from training.report.config import ReportConfig
from training.report.sweep.parameters import explained_share, swept_parameter
from training.report.sweep.state import read_sweep
from training.report.write import write_report
from training.sweep.results import rank_correlation

LOWEST = {"objective": {"name": "heldout_loss", "mode": "min"}}


def sweep_page(folder: Path, **made: Any) -> Page:  # noqa: ANN401
    return page_of(ReportConfig(folder=write_sweep(folder / "sweep", **made)))


def scaling(fractions: list[float]) -> dict[str, Any]:
    """A sweep over data and epochs, whose held-out loss falls as its kNN rises, but for noise."""
    rng = np.random.default_rng(0)
    rows: list[dict[str, Any]] = []
    for epochs in (4, 8):
        for fraction in fractions:
            row = dict(trials(1)[0], trial=len(rows), data_fraction=fraction, status="finished")
            row["objective"] = row["metric.knn"] = 40 + 8 * np.log2(fraction * epochs)
            row["metric.heldout_loss"] = 5 - fraction * epochs / 8 + rng.normal(0, 0.2)
            rows.append({**row, "space.epochs": epochs})
    space = {name: {"kind": "grid", "values": [1]} for name in ("data_fraction", "epochs")}
    return {"rows": rows, "plan": {"space": space, "num_trials": len(rows)}}


def test_a_finished_sweep_has_all_its_parts(tmp_path: Path) -> None:
    page = sweep_page(tmp_path / "sweep")
    assert list(page.sections)[1:] == ["parameters", "parallel", "importance", "trials", "plan"]
    assert list(page["parameters"].charts) == [
        f"kNN over {name}" for name in ("masks.query_ratio", "optim.lr", "fill", "epochs")
    ]
    (head, *rows) = page["trials"].tables[0]
    assert head[:3] == ("trial", "kNN, %", "status")
    objectives = [float(row[1]) for row in rows[:-1]]
    assert objectives == sorted(objectives, reverse=True)
    assert rows[-1][1:3] == ("–", "failed")  # noqa: RUF001
    assert "Trial 5 failed: the loss is no longer finite" in page["trials"].text
    assert page.summary.startswith("Finished: 24 trials. The highest kNN is ")
    assert "0.05–0.25" in str(rows)  # noqa: RUF001


def test_a_sweep_of_200_trials_is_a_file_of_6_mb(tmp_path: Path) -> None:
    folder = write_sweep(tmp_path / "sweep", num_trials=200)
    assert write_report(ReportConfig(folder=folder)).stat().st_size < 6_000_000


def test_the_best_is_a_finished_trial_where_there_is_one(tmp_path: Path) -> None:
    rows = trials(6)
    for row in rows:
        row["objective"] = float(row["trial"])
    sweep = read_sweep(write_sweep(tmp_path / "max", rows=rows))
    # 5 and 3 were not finished
    assert [sweep.scored[i]["trial"] for i in sweep.best] == [4]
    assert read_sweep(write_sweep(tmp_path / "min", rows=rows, plan=LOWEST)).best == [0]
    for row in rows:
        row["status"] = "running"
    assert read_sweep(write_sweep(tmp_path / "on", rows=rows)).best == [5]


def test_equal_trials_are_a_tie(tmp_path: Path) -> None:
    rows = trials(6)
    for row in rows:
        row |= {"status": "finished", "objective": 50.0 - (row["trial"] == 2)}
    page = sweep_page(tmp_path, rows=rows)
    assert "is 50 %, a tie of the trials 0, 1, 3, 4 and 5." in page.summary
    assert [row[0] for row in page["trials"].marked] == ["0", "1", "3", "4", "5"]


def test_the_best_carries_its_interval(tmp_path: Path) -> None:
    rows = trials(5)
    for row, knn in zip(rows, (50.0, 48.0, 46.0, 49.0, 30.0), strict=True):
        row |= {"status": "finished", "objective": knn}
    page = sweep_page(tmp_path / "knn", rows=rows)
    # Wilson: (p + z^2 / 2n +- z sqrt(p (1 - p) / n + z^2 / 4n^2)) / (1 + z^2 / n), p = 1/2
    z, n = 1.959964, 1000
    half = 100 * z * np.sqrt(0.25 / n + z**2 / (4 * n**2)) / (1 + z**2 / n)
    said = f"95 % interval is {50 - half:.4g} to {50 + half:.4g} % (Wilson, 1,000 images)"
    assert said in page.summary
    assert "2 other trials lie in it." in page.summary
    assert page.facts["95 % interval"] == f"{50 - half:.4g} to {50 + half:.4g} %"
    lowest = sweep_page(tmp_path / "loss", rows=rows, plan=LOWEST)
    assert "lowest held-out loss is 30 nats, of trial 4" in lowest.summary
    assert "no interval" in lowest.summary
    for row in rows:
        row["metric.knn_images"] = None
    unknown = sweep_page(tmp_path / "unknown", rows=rows)
    assert "its number of images is not recorded" in unknown.summary


def test_parallel_coordinates_show_what_differs(tmp_path: Path) -> None:
    rows = trials(4)
    for row in rows:
        row |= {"objective": 50.0, "status": "finished", "optim.lr": 0.01, "space.epochs": 8}
        row |= {"fill": "mean", "masks.query_ratio": ("0.05:0.25", "0.4")[row["trial"] % 2]}
    page = sweep_page(tmp_path, rows=rows)
    ((trace,),) = [chart["data"] for chart in page["parallel"].charts.values()]
    ratio, objective = trace["dimensions"]
    assert ratio["label"] == "masks.query_ratio"
    assert ratio["ticktext"] == ["0.05–0.25", "0.4"]  # noqa: RUF001
    assert objective["label"] == "kNN, %"
    assert page["parameters"].text.count("there is nothing to draw") == 3


def test_data_scaling_draws_its_curve(tmp_path: Path) -> None:
    made = scaling([0.125, 0.25, 0.5, 1.0])
    page = sweep_page(tmp_path, **made)
    assert list(page["scaling"].charts) == ["kNN, %", "held-out loss, nats"]
    knn = page["scaling"].charts["kNN, %"]
    assert [trace["name"] for trace in knn["data"]] == ["4 epochs", "8 epochs"]
    assert "4 epochs: from 32 at share of the training images, % 12.5 to 56 %" in knn["alt"]
    pairs = [(row["metric.heldout_loss"], row["metric.knn"]) for row in made["rows"]]
    expected = rank_correlation(*zip(*pairs, strict=True))
    assert f"kNN is {expected:.2f} (Spearman, 8 finished trials)" in page["scaling"].text


@pytest.mark.parametrize(("fractions", "curve"), [([0.5, 1.0], True), ([1.0], False)])
def test_few_fractions_give_no_rank_correlation(
    tmp_path: Path, fractions: list[float], curve: bool
) -> None:
    found = sweep_page(tmp_path, **scaling(fractions))["scaling"]
    assert bool(found.charts) == curve
    assert ("at least 2 fractions" in found.text) != curve
    assert "at least 3 fractions" in found.text
    assert "Spearman" not in found.text


def test_importance_finds_what_decides() -> None:
    rng = np.random.default_rng(1)
    rate, other = 10 ** rng.uniform(-3, -1, 60), rng.uniform(0, 1, 60)
    fills = [str(name) for name in rng.choice(["mean", "blur"], 60)]
    parameters = [
        swept_parameter("rate", rate.tolist(), "log_uniform"),
        swept_parameter("other", other.tolist(), "uniform"),
        swept_parameter("fill", fills, "choice"),
    ]
    shares = [explained_share(one, -((np.log10(rate) + 2) ** 2)) for one in parameters]
    assert shares[0] == pytest.approx(1.0)
    assert all(share is not None and share < 0.2 for share in shares[1:])
    by_fill = np.where(np.array(fills) == "blur", 2.0, 1.0)
    assert explained_share(parameters[2], by_fill) == pytest.approx(1.0)
    # The means of the groups leave the variance within them: R2 = 1 - 1 / 4.
    pairs = swept_parameter("pair", ["a", "a", "b", "b"], "choice")
    expected = 1 - 0.2 * 3 / 2
    assert explained_share(pairs, np.array([0.0, 2.0, 4.0, 6.0])) == pytest.approx(expected)


def test_importance_of_too_few_trials_is_not_told() -> None:
    fills = swept_parameter("fill", ["mean", "blur"], "choice")
    assert explained_share(fills, np.array([1.0, 2.0])) is None
    same = swept_parameter("fill", ["mean"] * 5, "choice")
    assert explained_share(same, np.arange(5.0)) is None


@pytest.mark.parametrize(
    ("values", "kind", "names", "log"),
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
def test_places_of_values(
    values: list[object], kind: str, names: tuple[str, ...], log: bool
) -> None:
    parameter = swept_parameter("name", values * 3, kind)
    assert (parameter.names, parameter.log) == (names, log)
    places = parameter.on_axis(parameter.values)
    beside = parameter.spread(np.arange(len(places), dtype=np.float64))
    gap = np.diff(np.unique(places)).min()
    assert np.abs(beside - places).max() <= 0.2 * gap  # no value comes near another one
    assert len(np.unique(beside)) == len(places)
    assert len(parameter.ticks()["ticktext"]) == len(values)  # type: ignore[arg-type]


def test_a_sweep_without_trials_or_values_says_so(tmp_path: Path) -> None:
    empty = sweep_page(tmp_path / "empty", num_trials=3, rows=[], finished=False)
    assert empty.summary.startswith("Unfinished: 0 of 3 trials")
    assert "no trial has ended yet" in empty["parameters"].text
    rows = trials(2)
    for row in rows:
        row["objective"] = None
    page = sweep_page(tmp_path / "none", rows=rows, finished=False)
    assert "No trial has a value of kNN yet" in page["parameters"].text


def test_trials_that_do_not_differ(tmp_path: Path) -> None:
    page = sweep_page(tmp_path, rows=[trials(1)[0] | {"trial": number} for number in range(2)])
    assert "All trials have fill" in page["parameters"].text
    assert "nothing to compare" in page["parallel"].text
    assert "too few different trials" in page["importance"].text


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("sweep.json", "{", "sweep.json cannot be read"),
        ("sweep.json", "[]", "wanted a JSON object"),
        ("sweep.json", '{"objective": {"name": "knn", "mode": "max"}}', "'space' is missing"),
        ("sweep.json", '{"objective": {"name": "knn"}, "space": {}}', "needs a name and a mode"),
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
