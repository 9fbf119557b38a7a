from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.core.errors import InputError
from tests.made_sweeps import made_trials, write_sweep
from tests.training.report.pages import Page, page_of
from training.report.config import ReportConfig
from training.report.sweep_page import explained_share, read_sweep, swept_parameter
from training.report.wording import figure, setting
from training.report.write import write_report
from training.sweep.results import Trial, accuracy_interval, rank_correlation
from training.sweep.space import grid_points, parse_space


def sweep_page(folder: Path, trials: list[Trial] | None = None, **made: Any) -> Page:  # noqa: ANN401
    return page_of(write_sweep(folder, trials, **made))


def rated(*values: float, objective: str = "knn") -> list[Trial]:
    """Finished trials with these objectives."""
    made = made_trials(len(values))
    figures = [{"knn_images": 1000.0, objective: value} for value in values]
    return [
        replace(trial, status="finished", values=figure, message=None)
        for trial, figure in zip(made, figures, strict=True)
    ]


def test_a_finished_sweep_has_all_its_parts(tmp_path: Path) -> None:
    page = sweep_page(tmp_path)
    assert list(page.sections) == ["parameters", "parallel", "importance", "trials", "plan"]
    names = ["masks.query_ratio", "fill", "epochs", "optim.lr"]
    assert list(page["parameters"].charts) == [f"kNN over {name}" for name in names]
    head, *rows = page["trials"].tables[0]
    others = ("epochs trained", "time", "knn_images", "loss")
    assert head == ("trial", "kNN, %", "status", *names, *others)
    best = made_trials(24)[int(rows[0][0])]
    knn, *measured = (figure(best.values[name]) for name in ("knn", "knn_images", "loss"))
    point = map(setting, best.point.values())
    assert rows[0] == (str(best.number), knn, best.status, *point, "8", "40 s", *measured)
    objectives = [float(row[1]) for row in rows[:-1]]
    assert objectives == sorted(objectives, reverse=True)
    assert rows[-1][1:3] == ("–", "failed")  # noqa: RUF001
    assert "Trial 5 failed: the loss is no longer finite" in page["trials"].text
    assert page.summary.startswith("Finished: 24 trials. The highest kNN is ")
    assert (page.facts["trials failed"], page.facts["parameters"]) == ("1", "4")
    (plan,) = page["plan"].tables
    assert ("space.masks.query_ratio.values", "0.05:0.25, 0.2:0.4, 0.4") in plan
    assert ("seed", "0") in plan


def test_a_sweep_of_200_trials_is_a_file_of_6_mb(tmp_path: Path) -> None:
    folder = write_sweep(tmp_path, num_trials=200)
    assert write_report(ReportConfig(folder=folder)).stat().st_size < 6_000_000


def test_the_best_is_a_finished_trial_if_there_is_one(tmp_path: Path) -> None:
    trials = rated(0, 1, 2, 3, 4, 5)
    trials[5] = replace(trials[5], status="stopped")
    assert read_sweep(write_sweep(tmp_path / "max", trials)).best == [trials[4]]
    running = [replace(trial, status="running") for trial in trials]
    assert read_sweep(write_sweep(tmp_path / "on", running)).best == [running[5]]
    page = sweep_page(tmp_path / "tie", rated(50, 49, 50, 30))
    assert "is 50 %, a tie of the trials 0, 2." in page.summary
    assert [row[0] for row in page["trials"].marked] == ["0", "2"]


def test_the_best_carries_its_interval(tmp_path: Path) -> None:
    trials = rated(50, 48, 46, 49, 30)
    page = sweep_page(tmp_path / "knn", trials)
    interval = accuracy_interval(trials[0])
    assert interval is not None
    said = f"{interval[0]:.4g} to {interval[1]:.4g} %"
    assert f"95 % interval is {said} (bootstrap over 1,000 images)" in page.summary
    assert "2 other trials in it." in page.summary
    assert page.facts["95 % interval"] == said
    losses = rated(5, 3, 4, objective="heldout_loss")
    lowest = sweep_page(tmp_path / "loss", losses, objective="heldout_loss")
    assert "lowest held-out loss is 3 nats, of trial 1" in lowest.summary
    assert "no interval" in lowest.summary


def test_parallel_coordinates_show_what_differs(tmp_path: Path) -> None:
    made = made_trials(4)[0]
    point = made.point | {"optim.lr": 0.01, "epochs": 8, "fill": "<i>"}
    trials = [
        replace(made, number=n, point=point | {"masks.query_ratio": ("0.05:0.25", "0.4")[n % 2]})
        for n in range(4)
    ]
    page = sweep_page(tmp_path / "ratio", trials)
    ((trace,),) = [chart["data"] for chart in page["parallel"].charts.values()]
    ratio, objective = trace["dimensions"]
    assert (ratio["label"], ratio["ticktext"]) == ("masks.query_ratio", ["0.05:0.25", "0.4"])
    assert objective["label"] == "kNN, %"
    assert page["parameters"].text.count("there is nothing to draw") == 3
    ((dots, _),) = [chart["data"] for chart in page["parameters"].charts.values()]
    assert "<br>fill: &lt;i&gt;<br>" in dots["hovertext"][0]
    same = sweep_page(tmp_path / "same", [replace(made, number=n) for n in range(2)])
    assert "All trials have fill" in same["parameters"].text
    assert "nothing to compare" in same["parallel"].text
    assert "too few different trials" in same["importance"].text


@pytest.mark.parametrize("fractions", ["0.125,0.25,0.5,1.0", "0.5,1.0", "1.0"])
def test_data_scaling_draws_its_curve(tmp_path: Path, fractions: str) -> None:
    """The held-out loss falls as kNN rises, but for noise."""
    space = parse_space(grid=["epochs=4,8", f"data_fraction={fractions}"])
    rng, trials = np.random.default_rng(0), []
    for number, point in enumerate(grid_points(space)):
        amount = float(point["data_fraction"]) * float(point["epochs"])
        values = {"knn": 40 + 8 * np.log2(amount), "heldout_loss": 5 - amount / 8 + rng.normal()}
        trials.append(Trial(number, point, "finished", values=values))
    found = sweep_page(tmp_path, trials, space=space)["scaling"]
    num = len(fractions.split(","))
    assert ("at least 2 fractions" in found.text) == (num < 2)
    assert ("at least 3 fractions" in found.text) == (num < 3)
    assert ("Spearman" in found.text) == (num >= 3)
    assert list(found.charts) == ([] if num < 2 else ["kNN, %", "held-out loss, nats"])
    if num == 4:
        knn = found.charts["kNN, %"]
        assert [trace["name"] for trace in knn["data"]] == ["4 epochs", "8 epochs"]
        assert "4 epochs: 56 at share of the training images, % 100, between 32" in knn["alt"]
        correlation = rank_correlation(trials)
        assert correlation is not None
        assert f"kNN is {correlation[0]:.2f} (Spearman, 8 finished trials)" in found.text


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
    # The means of the groups leave the variance within them: R2 = 1 - 1 / 5.
    pairs = swept_parameter("pair", ["a", "a", "b", "b"], "choice")
    expected = 1 - 0.2 * 3 / 2
    assert explained_share(pairs, np.array([0.0, 2.0, 4.0, 6.0])) == pytest.approx(expected)
    few = swept_parameter("fill", ["mean", "blur"], "choice")
    assert explained_share(few, np.array([1.0, 2.0])) is None


@pytest.mark.parametrize(
    ("values", "kind", "ticks", "log"),
    [
        ([0.01, 0.1], "log_uniform", ["0.01", "0.1"], True),
        ([0.1, 0.2], "uniform", ["0.1", "0.2"], False),
        ([0.001 * 1.9**n for n in range(8)], "log_uniform", ["0.001", "0.01"], True),
        ([1, 1000], "grid", ["1", "1000"], True),
        ([-1.0, 5.0], "grid", ["-1", "5"], False),
        ([True, False], "choice", ["False", "True"], False),
        (["0.2:0.4", "0.05:0.25", "0.4"], "grid", ["0.05:0.25", "0.2:0.4", "0.4"], False),
        (["mean", None], "choice", ["mean", "none"], False),
    ],
)
def test_places_and_ticks_of_values(
    values: list[Any], kind: str, ticks: list[str], log: bool
) -> None:
    parameter = swept_parameter("name", values * 3, kind)
    shown: Any = parameter.ticks["ticktext"]
    assert set(ticks) <= set(shown)
    if len(values) < 7:
        assert shown == ticks
        assert sorted(set(parameter.places)) == pytest.approx(parameter.ticks["tickvals"])
    numbers = [type(value) in (int, float) for value in values]
    if all(numbers):
        expected = np.log10(values) if log else values
        assert parameter.places[: len(values)] == pytest.approx(np.array(expected, float))
    assert parameter.varies


def test_a_sweep_without_trials_or_values_says_so(tmp_path: Path) -> None:
    empty = sweep_page(tmp_path / "empty", [], num_trials=3)
    assert empty.summary == ("Unfinished: 0 of 3 trials have ended; it may still be running.")
    assert "no trial has ended yet" in empty["parameters"].text
    silent = [replace(trial, values={}) for trial in made_trials(2)]
    page = sweep_page(tmp_path / "none", silent)
    assert "No trial has a value of kNN yet" in page["parameters"].text


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("sweep.json", "{", "sweep.json cannot be read"),
        ("sweep.json", "[]", "wanted a JSON object"),
        ("sweep.json", '{"objective": {"name": "knn", "mode": "max"}}', "'space'"),
        ("sweep.json", '{"objective": {"name": "beauty"}, "space": {}}', "objective beauty"),
        ("results.parquet", "no parquet", "results.parquet cannot be read"),
    ],
)
def test_damaged_files(tmp_path: Path, name: str, text: str, message: str) -> None:
    folder = write_sweep(tmp_path, num_trials=2)
    (folder / name).write_text(text)
    with pytest.raises(InputError, match=message):
        write_report(ReportConfig(folder=folder))
    assert not (folder / "report.html").exists()
