"""The command: its table, the words that stand first, and its name in what jobs say."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from salmask.command import COMMANDS, main, table

from jobs.cli import parse, with_names
from jobs.precompute import PrecomputeOptions
from jobs.pretrain_options import read_command_line
from jobs.terminal import retold
from pipeline.core.errors import InputError
from pipeline.precompute.config import PrecomputeConfig

ROOT = Path(__file__).resolve().parents[3]
POSITIONAL = re.compile(r"The values of ((?:--[a-z]+ ?)+) ?may stand first")
IMPORTS = """
import sys
from salmask.command import main
sys.argv[1:] = ["--help"]
try:
    main()
except SystemExit as leaving:
    assert leaving.code == 0
print({"torch", "ray", "tyro", "numpy"} & set(sys.modules))
"""


def salmask(
    words: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["/bin/salmask", *words.split()])
    monkeypatch.setenv("PYTHONSAFEPATH", "")  # which the command sets
    with pytest.raises(SystemExit) as leaving:
        main()
    assert isinstance(leaving.value.code, int)
    return leaving.value.code, *capsys.readouterr()


def test_every_job_but_the_demo_has_a_line() -> None:
    jobs = {path.stem for path in (ROOT / "jobs").glob("*.py") if "main(run)" in path.read_text()}
    assert set(COMMANDS) == jobs - {"demo"}
    lines = table().splitlines()[1:]
    assert [line.split()[0] for line in lines] == list(COMMANDS)
    whats = [what for _, what in COMMANDS.values()]
    assert len({line.index(what) for line, what in zip(lines, whats, strict=True)}) == 1


def test_the_table_imports_next_to_nothing() -> None:
    done = subprocess.run(
        [sys.executable, "-c", IMPORTS], capture_output=True, text=True, check=True
    )
    assert done.stdout == f"{table()}\nset()\n"


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ("", 0, "usage: salmask JOB"),
        ("--version", 0, "salmask 0."),
        (
            "pretrian S O",
            2,
            "error: there is no salmask pretrian: did you mean salmask pretrain",
        ),
        ("x", 2, "error: there is no salmask x: see salmask --help\n"),
        ("precompute nowhere out", 2, "error: no such folder: "),
        ("precompute a b c", 2, "error: a b c: wanted DATA OUT, then options\n"),
    ],
)
def test_what_it_says(
    words: str,
    code: int,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    found, out, err = salmask(words, monkeypatch, capsys)
    assert (found, (err or out)[: len(said)]) == (code, said)


@pytest.mark.parametrize("name", [n for n in COMMANDS if n not in ("compare", "report", "cluster")])
def test_the_words_of_the_table_are_those_that_the_job_takes(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    code, out, _ = salmask(f"{name} --help", monkeypatch, capsys)
    assert code == 0
    assert out.startswith(f"usage: salmask {name} ")
    assert "jobs/" not in out
    assert {len(line) for line in out.splitlines() if line.startswith(" ")} == {100}
    words = " ".join(out.split())
    told = POSITIONAL.search(words)
    assert len(told[1].split() if told else ()) == len(COMMANDS[name][0].split())


def test_words_without_a_name_are_the_options_that_they_stand_for() -> None:
    words = ["I", "S", "--saliency", "centre"]
    made = parse(PrecomputeOptions, "x", words, positional=("data", "out")).base
    assert made == PrecomputeConfig(data="I", out="S", saliency="centre")
    here = Path.cwd()
    _, local, config = read_command_line(["S", "--out", "O", "--local"])
    assert (local, config.shards, config.out) == (True, here / "S", here / "O")
    assert with_names(["a", "--x", "b"], ()) == ["a", "--x", "b"]
    with pytest.raises(InputError, match="a b c: wanted SHARDS OUT"):
        read_command_line(["a", "b", "c"])


def test_jobs_name_themselves_as_they_were_typed(monkeypatch: pytest.MonkeyPatch) -> None:
    said = "next: jobs/pretrain.py --shards S; python jobs/report.py S; jobs/demo.py"
    assert retold(said) == said
    monkeypatch.setattr(sys, "argv", ["salmask precompute"])
    assert retold(said) == "next: salmask pretrain --shards S; salmask report S; jobs/demo.py"
