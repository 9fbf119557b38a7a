"""The help of every job: each option explains itself, and numbers say where they may lie."""

import dataclasses
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from jobs import compare, demo, evaluate, export, precompute, pretrain, report, score, sweep
from jobs.base_config import find_base
from jobs.cli import main
from jobs.compare import CompareConfig
from jobs.demo import DemoConfig
from jobs.export import ExportConfig
from jobs.sweep_options import SweepOptions
from pipeline.core.errors import InputError
from pipeline.precompute.config import PrecomputeConfig
from pipeline.precompute.verify import VerifyConfig
from pipeline.saliency.score_report import ScoreConfig
from training.config.pretrain import PretrainConfig
from training.evaluate.config import EvaluateConfig
from training.report.config import ReportConfig

HERE = Path("F")
JOBS: dict[str, tuple[Callable[[], int | None], list[Any]]] = {
    "precompute": (
        precompute.run,
        [PrecomputeConfig(data=HERE, out=HERE), VerifyConfig(verify=HERE)],
    ),
    "pretrain": (pretrain.run, [find_base([])[1]]),
    "evaluate": (evaluate.run, [EvaluateConfig(checkpoint=("F",), train=HERE, val=HERE)]),
    "compare": (compare.run, [CompareConfig(arms=("F", "G"))]),
    "export": (export.run, [ExportConfig(checkpoint=HERE, out=HERE)]),
    "score": (score.run, [ScoreConfig(images=HERE, masks=HERE)]),
    "report": (report.run, [ReportConfig(folder=HERE)]),
    "sweep": (sweep.run, [SweepOptions(base=find_base([])[1])]),
    "demo": (demo.run, [DemoConfig()]),
}
"""Of every job what it runs, and configs that its options change."""
INTERVAL = re.compile(r"in ([(\[])([\d.]+), ([\d.]+)([)\]])")
SPAN = re.compile(r"from ([\d.]+) to ([\d.]+)")
LEAST = re.compile(r"([\d.]+) or more")
ABOVE = re.compile(r"above ([\d.]+)")


def options_of(
    job: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> dict[str, str]:
    """By name with its kind: what the help says of an option."""
    monkeypatch.setattr(sys, "argv", [f"jobs/{job}.py", "--help"])
    with pytest.raises(SystemExit, match="0"):
        main(JOBS[job][0])
    found: dict[str, str] = {}
    for line in capsys.readouterr().out.splitlines():
        words = line.strip("│").rstrip()
        if re.match(r" {1,2}--?\w", words):
            name, _, rest = words.strip().partition("  ")
            found[name] = rest.strip()
        elif words.startswith("    ") and found:
            found[name] += f" {words.strip()}"
    return found


def numeric(options: dict[str, str]) -> dict[str, str]:
    """Those that take numbers, by their names alone."""
    return {
        name.split()[0].removeprefix("--"): text
        for name, text in options.items()
        if re.search(r"\b(INT|FLOAT)\b", name)
    }


@pytest.mark.parametrize("job", JOBS)
def test_every_option_is_explained_in_a_group(
    job: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options = options_of(job, monkeypatch, capsys)
    assert {"-h, --help", "--quiet", "--json"} < set(options)
    for name, text in options.items():
        said = re.sub(r"\((default: .*|required|repeatable)\)$", "", text)
        assert len(said.split()) >= 2, f"{job} {name} is not explained: {text!r}"
        assert "``" not in said, f"{job} {name}: a terminal shows backticks as they are"
        assert re.search(r"\((default: .*|required|repeatable)\)$", text) or "help" in name, text


def values_outside(text: str) -> Iterator[float]:
    """Numbers that an option's help says it does not take."""
    for opens, low, high, closes in INTERVAL.findall(text)[:1]:
        yield float(low) if opens == "(" else float(low) - 0.5
        yield float(high) if closes == ")" else float(high) + 0.5
        return
    for low, high in SPAN.findall(text)[:1]:
        yield float(low) - 1
        yield float(high) + 1
        return
    for low in LEAST.findall(text)[:1]:
        yield float(low) - 1
        return
    for low in ABOVE.findall(text)[:1]:
        yield float(low)
        return
    if "any finite number" in text:
        yield float("nan")


def changed(config: Any, name: str, value: float) -> Any:  # noqa: ANN401  (any config)
    """A config with a number in the place of one or of all that a field holds."""
    first, _, rest = name.replace("-", "_").partition(".")
    before = getattr(config, first)
    if rest:
        return dataclasses.replace(config, **{first: changed(before, rest, value)})
    whole = all(isinstance(one, int) for one in (before if isinstance(before, tuple) else [before]))
    number = int(value) if whole and value.is_integer() else value
    new = (number,) * len(before) if isinstance(before, tuple) else number
    return dataclasses.replace(config, **{first: new})


def holder(job: str, name: str) -> Any:  # noqa: ANN401
    """The config of a job that has the option."""
    first = name.replace("-", "_").partition(".")[0]
    configs = [*JOBS[job][1], *(c.base for c in JOBS[job][1] if hasattr(c, "base"))]
    return next(config for config in configs if hasattr(config, first))


@pytest.mark.parametrize("job", [job for job in JOBS if job not in ("export", "sweep")])
def test_numbers_say_where_they_may_lie_and_it_is_so(
    job: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options = numeric(options_of(job, monkeypatch, capsys))
    assert options
    check(job, options)


def test_a_sweeps_own_numbers_too(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    own = {field.name for field in dataclasses.fields(SweepOptions)}
    options = numeric(options_of("sweep", monkeypatch, capsys))
    assert {"masks.query-ratio", "optim.lr"} < set(options)  # those of the pretraining are checked
    check("sweep", {k: v for k, v in options.items() if k.replace("-", "_") in own})


def check(job: str, options: dict[str, str]) -> None:
    for name, text in options.items():
        wrong = list(values_outside(text))
        assert wrong, f"{job} --{name} does not say which numbers it takes: {text}"
        config = holder(job, name)
        for value in wrong:
            with pytest.raises(InputError):
                assert changed(config, name, value) is None, f"--{name} took {value}: {text}"


def test_a_file_that_settings_start_from_is_named_in_the_help() -> None:
    assert isinstance(find_base([])[1], PretrainConfig)
    for words, message in (
        (["--recipe"], "--recipe"),
        (["--recipe", "debug", "--config", "F"], "both given"),
        (["--config", "nowhere.json"], "nowhere.json"),
    ):
        with pytest.raises(InputError, match=message):
            find_base(words)
