import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import binomtest

from jobs.compare import run
from tests.job_here import Done, job_here
from tests.training.evaluate.cases import write_evaluation

RIGHT = np.random.default_rng(0).random((4, 200)) < np.array([[0.4, 0.45, 0.7, 0.6]]).T


@pytest.fixture
def job(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Done]:
    return job_here(run, monkeypatch, capsys)


@pytest.fixture
def folders(tmp_path: Path) -> list[Path]:
    made = [write_evaluation(tmp_path / f"r{n}", row) for n, row in enumerate(RIGHT)]
    for folder, row in zip(made, RIGHT, strict=True):
        write_evaluation(folder, ~row, protocol="linear")
    return made


def test_two_evaluations_and_two_arms_of_seeds(
    job: Callable[..., Done], folders: list[Path]
) -> None:
    done = job(folders[0], folders[2])
    assert (done.code, done.err) == (0, "")
    said, _, *table = done.out.splitlines()
    assert said.startswith(f"comparing {folders[2]} with {folders[0]} by ")
    assert table[0].startswith(f"| top-1, % | {folders[0]} | {folders[2]} | ")
    assert {line.split(" | ")[0] for line in table[2:4]} == {"| knn", "| linear"}
    done = job(folders[0], folders[2], "--protocol", "knn", "--json")
    (found,) = json.loads(done.out)["comparisons"]
    only_a, only_b = (int((RIGHT[a] & ~RIGHT[b]).sum()) for a, b in ((0, 2), (2, 0)))
    assert (found["only_baseline"], found["only_arm"]) == (only_a, only_b)
    assert found["difference"]["p"] == binomtest(only_a, only_a + only_b, 0.5).pvalue
    assert found["difference"]["points"] == pytest.approx((only_b - only_a) / 2)
    assert set(found["gains"]) == {"cat", "dog", "owl"}
    none, own = (f"{name}={folders[n]},{folders[n + 1]}" for name, n in (("none", 0), ("own", 2)))
    done = job(none, own, "--protocol", "knn")
    assert done.code == 0, done.err
    assert "| top-1, % | none | own | own - none |" in done.out
    assert "Means of 2 seeds" in done.out


@pytest.mark.usefixtures("folders")
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("r0", "r0"), "r0 is given twice"),
        (("r0", "r1", "--seed", "-1"), "seed -1"),
        ((), "name two folders of evaluations"),
    ],
)
def test_bad_input(
    job: Callable[..., Done],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    words: tuple[str, ...],
    message: str,
) -> None:
    monkeypatch.setenv("SALMASK_ROOT", str(tmp_path))
    done = job(*words)
    assert (done.code, done.out, done.err.count("\n")) == (2, "", 1)
    assert done.err.startswith("error: ")
    assert message in done.err
