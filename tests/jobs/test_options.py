"""Groups of options: where they stand, and that nothing else changes."""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, ClassVar

import pytest
import tyro

from jobs.cli import parse
from jobs.options import Groups, from_grouped, grouped, to_grouped
from pipeline.core.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Part:
    """A part of its own.

    Attributes:
        size: side in pixels.
    """

    size: int = 3


@dataclass(frozen=True, kw_only=True)
class Base:
    """What is taken apart.

    Attributes:
        source: where from.
        count: how many, 1 or more.
        part: a part.
        late: said at the end.
    """

    groups: ClassVar[Groups] = {
        "place": ("Where everything lies.", ("source",)),
        "amount": ("How much.", ("count", "late")),
    }

    source: Path
    part: Part = field(default_factory=Part)
    count: int = 2
    late: tuple[float, ...] = (0.5, 1.0)

    def __post_init__(self) -> None:
        if self.count < 1:
            raise InputError(f"count {self.count} must be 1 or more")


@dataclass(frozen=True, kw_only=True)
class Outer:
    """A job.

    Attributes:
        how: manner.
        alone: in no group.
    """

    groups: ClassVar[Groups] = {"manner": ("How it is done.", ("how",))}

    how: str = "well"
    alone: bool = False
    base: Annotated[Base, tyro.conf.arg(name="")]


def test_options_are_named_as_if_there_were_no_groups() -> None:
    words = [
        "--source",
        "S",
        "--count",
        "5",
        "--late",
        "0.1",
        "--part.size",
        "7",
        "--how",
        "badly",
        "--alone",
    ]
    assert parse(Outer, "x", words) == Outer(
        how="badly",
        alone=True,
        base=Base(source=Path("S"), count=5, late=(0.1,), part=Part(size=7)),
    )
    assert parse(Outer, "x", ["--source", "S"]) == Outer(base=Base(source=Path("S")))


def test_values_that_are_not_given_are_those_of_the_default() -> None:
    base = Base(source=tyro.MISSING, count=9, part=Part(size=4))
    made = parse(Outer, "x", ["--source", "S", "--late"], default=Outer(how="so", base=base))
    assert made == Outer(how="so", base=Base(source=Path("S"), count=9, late=(), part=Part(size=4)))
    with pytest.raises(InputError, match="--source"):
        parse(Outer, "x", [], default=Outer(base=base))


def test_there_and_back() -> None:
    config = Outer(how="so", base=Base(source=Path("S"), count=9))
    assert from_grouped(Outer, to_grouped(grouped(Outer), config)) == config


def test_what_the_config_refuses_is_refused() -> None:
    with pytest.raises(InputError, match=r"^count 0 must be 1 or more$"):
        parse(Outer, "x", ["--source", "S", "--count", "0"])


def test_the_help_has_a_box_for_each_group(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse(Outer, "x", ["--help"])
    lines = capsys.readouterr().out.splitlines()
    titles = [found[1] for line in lines if (found := re.match(r"\W*((?:\w+ )?options)\W*$", line))]
    assert titles == [
        "options",
        "manner options",
        "place options",
        "part options",
        "amount options",
        "terminal options",
    ]
    text = "\n".join(lines)
    for words in ("A job.", "How it is done.", "manner. (default: well)", "where from. (required)"):
        assert words in text
    assert "said at the end. (default: 0.5 1.0)" in text
    assert "Attributes" not in text
