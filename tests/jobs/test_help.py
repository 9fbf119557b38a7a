"""The help of every job: each option explains itself, and numbers say where they may lie."""

import ast
import dataclasses
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from operator import attrgetter
from pathlib import Path
from typing import Any

import pytest

from jobs import (
    choose,
    compare,
    demo,
    embed,
    evaluate,
    explain,
    export,
    precompute,
    pretrain,
    preview,
    report,
    score,
    stream,
    sweep,
)
from jobs.cli import main
from jobs.compare import CompareConfig
from jobs.export import ExportConfig
from jobs.pretrain_options import PretrainOptions, find_base
from jobs.preview import PreviewConfig
from jobs.stream_options import StreamOptions
from jobs.sweep_options import SweepOptions
from pipeline.core.errors import InputError
from pipeline.precompute.config import PrecomputeConfig
from pipeline.precompute.remove import RemoveConfig
from pipeline.precompute.verify import VerifyConfig
from pipeline.saliency.registry import SALIENCY_SOURCES, parse_saliency_source
from pipeline.saliency.score_report import ScoreConfig
from training.demo.config import DemoConfig
from training.evaluate.config import EvaluateConfig
from training.explain.config import ExplainConfig
from training.methods.registry import METHODS
from training.report.config import ReportConfig
from training.select.config import ChooseConfig
from training.select.embed_config import EmbedConfig
from training.sweep.config import SearchOptions

ROOT = Path(__file__).resolve().parents[2]
HERE = Path("F")
JOBS: dict[str, tuple[Callable[[], int | None], list[Any]]] = {
    "precompute": (
        precompute.run,
        [PrecomputeConfig(data=HERE, out=HERE), VerifyConfig(verify=HERE)],
    ),
    "pretrain": (
        pretrain.run,
        [PretrainOptions(base=find_base(["--method", name])[1]) for name in METHODS],
    ),
    "evaluate": (evaluate.run, [EvaluateConfig(checkpoint=("F",), train=HERE, val=HERE)]),
    "choose": (choose.run, [ChooseConfig(pool=HERE, target=HERE, out=HERE, checkpoint=HERE)]),
    "compare": (compare.run, [CompareConfig(arms=("F", "G"))]),
    "embed": (embed.run, [EmbedConfig(checkpoint=HERE, data=HERE, out=Path("F.parquet"))]),
    "explain": (explain.run, [ExplainConfig(checkpoint=HERE, shards=HERE, out=HERE)]),
    "export": (export.run, [ExportConfig(checkpoint=HERE, out=HERE)]),
    "preview": (preview.run, [PreviewConfig(data=HERE)]),
    "score": (score.run, [ScoreConfig(images=HERE, masks=HERE)]),
    "report": (report.run, [ReportConfig(folder=HERE)]),
    "sweep": (sweep.run, [SweepOptions(base=find_base([])[1]), SearchOptions()]),
    "stream": (
        stream.run,
        [StreamOptions(base=find_base(["--method", name])[1]) for name in METHODS],
    ),
    "demo": (demo.run, [DemoConfig()]),
}
"""Of every job what it runs, and configs that its options change."""
SWEEP = {field.name for kind in JOBS["sweep"][1] for field in dataclasses.fields(kind)}
NOT_TAKEN: tuple[tuple[str, Callable[..., list[float]]], ...] = (
    (r"in \(([\d.]+), ([\d.]+)([)\]])", lambda a, b, end: [float(a), float(b) + (end == "]") / 2]),
    (r"in \[([\d.]+), ([\d.]+)([)\]])", lambda a, b, end: [float(a) - 1, float(b) + (end == "]")]),
    (r"from ([\d.]+) to ([\d.]+)", lambda low, high: [float(low) - 1, float(high) + 1]),
    (r"([\d.]+) or more", lambda low: [float(low) - 1]),
    (r"above ([\d.]+)", lambda low: [float(low)]),
    (r"any (finite) number", lambda _: [float("nan")]),
)
"""What a help says of a number, and numbers that are not taken then."""


@pytest.fixture
def help_of(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[[str, str], list[str]]:
    """The lines of a job's help."""
    monkeypatch.setenv("COLUMNS", "100")

    def shown(job: str, option: str) -> list[str]:
        monkeypatch.setattr(sys, "argv", [f"jobs/{job}.py", option])
        with pytest.raises(SystemExit, match="0"):
            main(JOBS[job][0])
        return capsys.readouterr().out.splitlines()

    return shown


def options_of(lines: list[str]) -> dict[str, str]:
    """By name with its kind: what the help says of an option."""
    found: dict[str, str] = {}
    name = ""
    for words in (line.strip("│").rstrip() for line in lines):
        if re.match(r" {1,2}--?\w", words):
            name, _, rest = words.strip().partition("  ")
            found[name] = rest.strip()
        elif words.startswith("    ") and found:
            found[name] += f" {words.strip()}"
    return found


@pytest.mark.parametrize("job", JOBS)
def test_the_helps(job: str, help_of: Callable[[str, str], list[str]]) -> None:
    """The short one fits a screen; every option is explained, also what numbers it takes.

    Numbers of the pretraining that a sweep starts from are checked as pretrain's own.
    """
    short, options = help_of(job, "--help"), options_of(help_of(job, "--help-all"))
    assert 15 < len(short) <= 50
    assert {"-h, --help", "--quiet", "--json"} < set(options)
    for name, text in [*options_of(short).items(), *options.items()]:
        said = re.sub(r"\((default: .*|required|repeatable)\)$", "", text)
        assert len(said.split()) >= 2, f"{job} {name} is not explained: {text!r}"
        assert "``" not in said, f"{job} {name}: a terminal shows backticks as they are"
        assert re.search(r"\((default: .*|required|repeatable)\)$", text) or "help" in name, text
        option = name.split()[0].removeprefix("--")
        is_number = re.search(r"\b(INT|FLOAT)\b", name) is not None
        if is_number and (job != "sweep" or option.replace("-", "_") in SWEEP):
            check_number(job, option, text)


def check_number(job: str, name: str, text: str) -> None:
    wrong = next((no(*m.groups()) for what, no in NOT_TAKEN if (m := re.search(what, text))), [])
    assert wrong, f"{job} --{name} does not say which numbers it takes: {text}"
    for value in wrong:
        with pytest.raises(InputError):
            assert changed(holder(job, name), name, value) is None, f"--{name} took {value}: {text}"


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
    configs = [*JOBS[job][1], *(c.base for c in JOBS[job][1] if hasattr(c, "base"))]
    for config in configs:
        with suppress(AttributeError):
            attrgetter(name.replace("-", "_"))(config)
            return config
    raise AssertionError(f"no config of {job} has --{name}")


HELPS = """
import contextlib, io, runpy, sys
for job in sys.argv[1:]:
    sys.argv = [f"jobs/{job}.py", "--help"]
    with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()) as shown:
        runpy.run_path(sys.argv[0], run_name="__main__")
    assert shown.getvalue().startswith("usage: "), job
    print(job, *({"torch", "ray"} & set(sys.modules)))
"""


def test_the_help_imports_neither_torch_nor_ray() -> None:
    jobs = ["cluster", *JOBS]
    command = [sys.executable, "-c", HELPS, *jobs]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == jobs


OF_OTHERS = {"--address", "--logdir", "--sort", "--working-dir"}
"""Options of Ray, TensorBoard and tar."""


def texts() -> Iterator[tuple[str, str]]:
    """Every string with a space in the program, with its place; X for what is filled in."""
    for file in (
        f for room in ("pipeline", "training", "jobs") for f in (ROOT / room).rglob("*.py")
    ):
        for node in ast.walk(ast.parse(file.read_text())):
            parts = node.values if isinstance(node, ast.JoinedStr) else [node]
            text = "".join(str(p.value) if isinstance(p, ast.Constant) else "X" for p in parts)
            if " " in text:
                yield text, f"{file.relative_to(ROOT)}:{getattr(node, 'lineno', 0)}"


def test_what_names_an_option_names_one_that_exists(
    help_of: Callable[[str, str], list[str]],
) -> None:
    """Messages, helps and advice: every `--option` and `--option choice` in a string."""
    known = {"--help-all", "--cpus", "--gpus", *OF_OTHERS}  # --cpus, --gpus: of jobs/cluster.py
    known |= {f"--{one.name}" for one in dataclasses.fields(RemoveConfig)}
    choices: dict[str, set[str]] = {}
    for job in JOBS:
        names = ", ".join(options_of(help_of(job, "--help-all")))
        known |= set(re.findall(r"--[\w.-]+", names))
        for name, listed in re.findall(r"(--[\w.-]+) \{([\w,]+)\}", names):
            if "None" not in listed:
                choices.setdefault(name, set()).update(listed.split(","))
    named: dict[str, str] = {}
    chosen: dict[tuple[str, str], str] = {}
    for text, where in texts():
        whole = re.sub(r"--[\w.-]*-X\b", "", text)  # the name itself is filled in
        for name, value in re.findall(r"(?<![\w(-])(--[a-z][\w.-]*\w)(?: ([a-z_]\w*))?", whole):
            named[name] = where
            if value and name in choices:
                chosen[name, value] = where
    assert len(named) > 50
    missing = {name: where for name, where in named.items() if name not in known}
    assert missing == {}
    wrong = {one: where for one, where in chosen.items() if one[1] not in choices[one[0]]}
    assert wrong == {}


def test_what_names_a_saliency_source_gives_it_options_that_it_has() -> None:
    found = re.compile(rf"\b({'|'.join(SALIENCY_SOURCES)}):((?:,?[a-z_]+=[\w./-]*\w)+)")
    sources = {m[0]: where for text, where in texts() for m in found.finditer(text)}
    assert len(sources) > 6
    said = [(refusal(text), where) for text, where in sources.items()]
    assert [one for one in said if re.search("has no option|wants .* to be", one[0])] == []


def refusal(source: str) -> str:
    """Why a saliency source cannot be made, often since a file is not there; empty: it can."""
    try:
        parse_saliency_source(source)
    except InputError as error:
        return str(error)
    return ""
