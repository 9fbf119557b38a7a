"""Measure work in turns, and print medians with their spread."""

import importlib.metadata
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping

Times = Mapping[str, list[float]]
"""Seconds of each arm, round by round."""


def in_turns(
    arms: Mapping[str, Callable[[int], object]],
    rounds: int,
    *,
    now: Callable[[], float] = time.process_time,
) -> dict[str, list[float]]:
    """Seconds of every arm, measured in turns, so that all meet the same minutes of the machine.

    Args:
        arms: name -> work; it is given the number of the round.
        rounds: that count; one before them warms up.
        now: the clock; CPU time of this process is hardly moved by others.
    """
    names, times = list(arms), {name: list[float]() for name in arms}
    for number in range(rounds + 1):
        first = number % len(names)  # no arm always follows the same other
        for name in names[first:] + names[:first]:
            start = now()
            arms[name](number)
            if number:
                times[name].append(now() - start)
    return times


def show_medians(times: Times, unit: str, scale: float) -> dict[str, float]:
    """Print and return the medians of seconds times `scale`, with their spread."""
    medians = {name: scale * statistics.median(values) for name, values in times.items()}
    for name, values in times.items():
        low, high = scale * min(values), scale * max(values)
        print(f"  {name:<40} {medians[name]:9.3f} {unit} ({low:.3f} to {high:.3f})")
    return medians


def machine(*packages: str) -> str:
    """Processor, load, and the versions of Python and of packages."""
    versions = [f"{name} {importlib.metadata.version(name)}" for name in packages]
    return ", ".join(
        [
            platform.processor() or platform.machine(),
            f"load {os.getloadavg()[0]:.1f}",
            f"Python {platform.python_version()}",
            *versions,
        ]
    )
