"""Command lines from nested dataclasses: what the two helps show, and whose error is whose."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import pytest
import tyro

from jobs.cli import parse
from pipeline.core.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Part:
    """A part.

    Attributes:
        size: side in pixels.
        depth: depth in pixels.
    """

    size: int = 3
    depth: int = 5


@dataclass(frozen=True, kw_only=True)
class Deeper(Part):
    """A variant of the part.

    Attributes:
        more: what others lack.
    """

    more: int = 7


@dataclass(frozen=True, kw_only=True)
class Base:
    """What a job works on.

    Attributes:
        source: where from.
        count: how many, 1 or more.
        part: a part.
    """

    source: Path
    part: Part = field(default_factory=Part)
    count: int = 2

    def __post_init__(self) -> None:
        if self.count < 1:
            raise InputError(f"count {self.count} must be 1 or more")


@dataclass(frozen=True, kw_only=True)
class Outer:
    """A job.

    Attributes:
        how: manner.
    """

    how: str = "well"
    base: Annotated[Base, tyro.conf.arg(name="")]


@dataclass(frozen=True)
class Variant:
    """A variant.

    Attributes:
        part: a part.
    """

    part: Part


DEFAULT = Outer(base=Base(source=tyro.MISSING, count=9, part=Deeper(size=4)))


def test_values_that_are_not_given_are_those_of_the_default() -> None:
    made = parse(Outer, "x", ["--source", "S", "--part.more", "1", "--how", "so"], default=DEFAULT)
    assert made == Outer(
        how="so", base=Base(source=Path("S"), count=9, part=Deeper(size=4, more=1))
    )
    assert parse(Outer, "x", ["--source", "S"]) == Outer(base=Base(source=Path("S")))


def test_what_the_config_refuses_is_one_line() -> None:
    with pytest.raises(InputError, match=r"^count 0 must be 1 or more$"):
        parse(Outer, "x", ["--source", "S", "--count", "0"])


@pytest.mark.parametrize(
    ("words", "said"), [([], "--source"), (["--source", "S", "--part.more", "1"], "--part.more")]
)
def test_what_the_command_line_lacks_or_has_too_much_is_named(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        parse(Outer, "x", words)
    assert said in capsys.readouterr().err


def test_the_short_help_shows_some_options_and_the_long_one_all(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def shown(option: str) -> str:
        with pytest.raises(SystemExit, match="0"):
            parse(
                Outer,
                "x",
                [option],
                default=DEFAULT,
                brief=("base.source", "base.part.size"),
                variants={"--plain": Variant(Part(depth=6))},
            )
        return capsys.readouterr().out

    short, long = shown("--help"), shown("--help-all")
    for words in ("A job. --help-all shows", "where from. (required)", "pixels. (default: 4)"):
        assert words in short
        assert words in long
    for option, value in (("--how", "well"), ("--part.more", "7"), ("--count", "9")):
        assert option not in short
        assert option in long
        assert f"(default: {value})" in long
    assert "x --plain" in long.partition("--part.more")[2]
    assert "depth in pixels. (default: 6)" in long
    for help_text in (short, long):
        assert "--quiet" in help_text
        assert "Attributes" not in help_text
