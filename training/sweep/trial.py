"""One trial of a sweep as it runs: what it says while it trains, read from its run's own record.

The record is cut off at the checkpoint when a run goes on, and then says the same again: whoever
listens takes each epoch once.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path

from training.record.metrics import read_metrics

POLL_SECONDS = 1.0
EVALUATION = "eval"


@dataclass(frozen=True)
class Said:
    """Numbers of a trial after some steps."""

    step: int
    values: dict[str, float]


def said_since(out: Path, step: int) -> list[Said]:
    """What a run's record says of its evaluations after a global step; the untrained is none.

    The last of the training's numbers, such as the loss, stand with each.
    """
    found: dict[int, dict[str, float]] = {}
    training: dict[str, float] = {}
    for entry in read_metrics(out):
        numbers = {
            name: float(value)
            for name, value in entry.items()
            if name != "step" and not isinstance(value, str)
        }
        if entry["kind"] == EVALUATION:
            at = int(entry["step"])
            found[at] = found.get(at, {}) | {k: training[k] for k in ("loss",) if k in training}
            found[at] |= numbers
        else:
            training |= numbers
    return [Said(at, values) for at, values in sorted(found.items()) if at > max(step, 0)]


def follow(run: Callable[[], None], out: Path) -> Iterator[Said]:
    """Runs in a thread of its own, and gives what the record says meanwhile.

    Raises:
        Exception: whatever the run raises, once all that it said has been given.
    """
    step = 0
    with ThreadPoolExecutor(1, thread_name_prefix="trial") as pool:
        running = pool.submit(run)
        ended = False
        while not ended:
            ended = bool(wait([running], timeout=POLL_SECONDS).done)
            for said in said_since(out, step):
                step = said.step
                yield said
        running.result()
