"""Run the benchmarks, or compare some of them with another checkout of this project, in turns.

    make bench
    make bench ARGS="--against ../before --only loader masks"

The other checkout may be of any commit whose benchmarks print the same lines. Its own .venv is used
where it has one. A ratio above 1 means that this checkout is slower.
"""

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import pytest

from jobs.cli import main, parse
from pipeline.core.errors import InputError

ROOT = Path(__file__).resolve().parents[2]
BENCHMARKS = {
    "loader": ("test_loader_speed.py -k 500", r"our loader +([\d.]+) ms"),
    "masks": ("test_masks.py -k masks_of_a_batch", r"patches of both \(counted\) +([\d.]+) us"),
    "step": ("test_step_cost.py -k stored_saliency", r"precomputed +([\d.]+) ms"),
    "precompute": ("test_precompute_speed.py -k boundary", r"job, whole +([\d.]+) s"),
    "sweep": ("test_sweep_overhead.py", r"medians ([\d.]+ and [\d.]+):"),
}
"""Name -> the test in tests/benchmarks, and the figure in what it prints."""


@dataclass(frozen=True, kw_only=True)
class BenchConfig:
    """What is measured.

    Attributes:
        against: another checkout; none: all benchmarks of this one run once.
        only: what is compared: loader, masks, step, precompute, sweep; none: all of them.
        rounds: how often each benchmark runs in each checkout, 1 or more.
    """

    against: Path | None = None
    only: tuple[str, ...] = ()
    rounds: int = 3

    def __post_init__(self) -> None:
        if self.rounds < 1 or not set(self.only) <= BENCHMARKS.keys():
            known = ", ".join(BENCHMARKS)
            raise InputError(f"wanted --rounds of 1 or more, and for --only some of {known}")


def measure(checkout: Path, name: str) -> float:
    """The figure of a benchmark in a checkout: time of our work, or of a sweep over a run alone."""
    test, pattern = BENCHMARKS[name]
    own = checkout / ".venv" / "bin" / "python"
    words = [str(own) if own.exists() else sys.executable, "-m", "pytest", "-m", "benchmark"]
    words += [
        "-s",
        "-q",
        "-p",
        "no:randomly",
        "--timeout",
        "3600",
        *f"tests/benchmarks/{test}".split(),
    ]
    done = subprocess.run(
        words,
        cwd=checkout,
        env={**os.environ, "PYTHONPATH": str(checkout)},
        capture_output=True,
        text=True,
        check=False,
    )
    found = re.search(pattern, done.stdout)
    if found is None:  # a benchmark that misses its target still prints its figure
        raise InputError(f"{checkout}: {test} prints no figure:\n{done.stdout[-2000:]}")
    figure, *alone = map(float, reversed(found[1].split(" and ")))
    return figure / alone[0] if alone else figure


def run() -> int:
    """Run or compare."""
    config = parse(BenchConfig, "bench", description=__doc__)
    if config.against is None:
        return int(pytest.main(["-m", "benchmark", "--timeout", "3600", "-s"]))
    for name in config.only or BENCHMARKS:
        figures: dict[Path, list[float]] = {ROOT: [], config.against.absolute(): []}
        for _ in range(config.rounds):
            for checkout, found in figures.items():
                found.append(measure(checkout, name))
        ours, theirs = figures.values()
        ratio = median(ours) / median(theirs)
        print(f"{name}: {ratio:.3f} of {config.against} (here {ours}, there {theirs})", flush=True)
    return 0


if __name__ == "__main__":
    main(run)
