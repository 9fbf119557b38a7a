"""What the README files tell a reader to type and to look for is there."""

import ast
import re
import shlex
from functools import cache
from pathlib import Path

import pytest
import ray._private.node
from ray._private.authentication import authentication_constants

from jobs.cli import parse
from jobs.cluster import wait
from jobs.compare import CompareConfig
from jobs.export import ExportConfig
from jobs.pretrain_options import read_command_line
from jobs.preview import PreviewConfig
from jobs.stream_options import read_options as read_stream
from jobs.sweep_options import read_options
from pipeline.core.errors import InputError
from pipeline.precompute.config import PrecomputeConfig
from pipeline.precompute.remove import RemoveConfig
from pipeline.precompute.verify import VerifyConfig
from pipeline.saliency.score_report import ScoreConfig
from training.demo.config import DemoConfig
from training.evaluate.config import EvaluateConfig
from training.explain.config import ExplainConfig
from training.report.config import ReportConfig
from training.select.config import ChooseConfig
from training.select.embed_config import EmbedConfig

ROOT = Path(__file__).resolve().parent.parent
PAGES = [
    ROOT / folder / "README.md"
    for folder in (
        *("", "pipeline", "pipeline/saliency", "training", "training/evaluate", "training/sweep"),
        *("jobs", "jobs/deploy"),
    )
] + [ROOT / "tests/benchmarks" / name for name in ("RESULTS.md", "SPEED.md")]
README = "\n".join(page.read_text() for page in PAGES)
ELSEWHERE = (
    "ray: command not found",
    authentication_constants.TOKEN_INVALID_ERROR_MESSAGE,
    Path(ray._private.node.__file__).read_text(),
)
"""Said by a shell, by Python or by Ray."""
CONFIGS: dict[str, type[object]] = {
    "jobs/precompute.py": PrecomputeConfig,
    "jobs/evaluate.py": EvaluateConfig,
    "jobs/choose.py": ChooseConfig,
    "jobs/compare.py": CompareConfig,
    "jobs/explain.py": ExplainConfig,
    "jobs/export.py": ExportConfig,
    "jobs/report.py": ReportConfig,
    "jobs/score.py": ScoreConfig,
    "jobs/demo.py": DemoConfig,
    "jobs/embed.py": EmbedConfig,
    "jobs/preview.py": PreviewConfig,
}
FIRST = {
    "jobs/precompute.py": ("data", "out"),
    "jobs/embed.py": ("checkpoint", "data", "out"),
    "jobs/preview.py": ("data",),
}
"""Names of what may stand first."""


def read(job: str, words: list[str]) -> None:
    """The job's command line, as the job reads it."""
    if job == "jobs/pretrain.py":
        read_command_line(words)
    elif job == "jobs/stream.py":
        read_stream(words, "stream")
    elif job == "jobs/sweep.py":
        read_options(words, "sweep")
    else:
        others = {"--verify": VerifyConfig, "--remove": RemoveConfig}
        kind = next((others[word] for word in words if word in others), CONFIGS[job])
        parse(kind, job, words, positional=FIRST.get(job, ()))


def blocks_of(text: str, language: str) -> list[str]:
    """The blocks of code whose first fence names the language."""
    blocks = re.findall(r"^```(\w*)\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    return [code for named, code in blocks if named == language]


def lines() -> list[str]:
    """The commands of the blocks to copy, without their comments, and those within a paragraph."""
    whole = "\n".join(blocks_of(README, "")).replace("\\\n", " ")
    within = [" ".join(found.split()) for found in re.findall(r"`((?:python|make) [^`]*)`", README)]
    return [line.partition(" #")[0].strip() for line in whole.splitlines()] + within


def commands() -> list[list[str]]:
    """What follows `python` on the lines that start a job."""
    told = [re.sub(r"^salmask (\w+) ", r"python jobs/\1.py ", line) for line in lines()]
    found = [line[line.index("python jobs/") :] for line in told if "python jobs/" in line]
    words = [shlex.split(line)[1:] for line in found]
    assert len(words) > 15, "the blocks are not read"
    return [line for line in words if line[0] != "jobs/x.py" and "--help" not in line]


@pytest.mark.parametrize("words", commands(), ids=lambda words: " ".join(words)[:60])
def test_the_job_takes_the_command(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert (ROOT / words[0]).is_file()
    if words[0] == "jobs/cluster.py":
        assert words[1:] == ["wait", "--gpus", "4"]
    elif not {"--config", "--extend"}.isdisjoint(words):  # of what has been trained
        with pytest.raises(InputError, match=r"(best|config)\.json cannot be read"):
            read(words[0], words[1:])
    else:
        read(words[0], words[1:])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.parent.name)
def test_blocks_of_code_end_and_python_can_be_read(page: Path) -> None:
    opened = [line for line in page.read_text().splitlines() if line.startswith("```")]
    assert set(opened[1::2]) <= {"```"}
    assert len(opened) % 2 == 0
    for block in blocks_of(page.read_text(), "python"):
        ast.parse(block)


def test_waiting_wants_one_number() -> None:
    for wrong in ({}, {"gpus": 1, "cpus": 1}):
        with pytest.raises(InputError, match="either --gpus or --cpus"):
            wait(**wrong)


def test_the_first_page_is_short() -> None:
    assert len(PAGES[0].read_text().splitlines()) <= 200


def test_make_has_the_targets() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {line.split()[1] for line in lines() if line.startswith("make ")}
    assert "cluster-up" in named
    assert named <= targets


def test_the_files_are_there() -> None:
    named = re.findall(r"[` (]((?:jobs|pipeline|training|tests)/[\w/*.]*)", README)
    missing = {name for name in named if not list(ROOT.glob(name)) and name != "jobs/x.py"}
    assert len(set(named)) > 20
    assert missing == set()


@cache
def sentences() -> str:
    """All texts of the program, and the Makefile."""
    texts = [(ROOT / "Makefile").read_text(), *ELSEWHERE]
    for package in ("pipeline", "training", "jobs"):
        for path in (ROOT / package).rglob("*.py"):
            tree = ast.walk(ast.parse(path.read_text()))
            nodes = (node.value for node in tree if isinstance(node, ast.Constant))
            texts += [value for value in nodes if isinstance(value, str)]
    return "\n".join(texts)


def trouble() -> list[str]:
    """The messages in the first column of the table of troubles."""
    section = README.partition("## Trouble\n")[2].partition("\n## ")[0]
    rows = [line.split("|")[1] for line in section.splitlines() if line.startswith("| ")]
    return [text for row in rows for text in re.findall(r"`([^`]*)`", row)]


def test_the_messages_are_the_programs_own() -> None:
    assert len(trouble()) > 20
    assert [text for text in trouble() if text not in sentences()] == []
