"""Whether a run has learned anything, told without labels in one line."""

from collections.abc import Mapping
from typing import Any

from training.evaluate.label_free import (
    IMAGES,
    INSTANCE_ACCURACY,
    OBJECT_SENSITIVITY,
    SPREAD,
)
from training.record.collapse import STANDARD_ERRORS, standard_error_of_difference


class Learning:
    """Follows the label-free figures of a run from its start.

    Args:
        min_spread: spread of the embeddings under which a run has collapsed.
    """

    def __init__(self, min_spread: float) -> None:
        self._min_spread = min_spread
        self._start: dict[str, float] = {}
        self._now: dict[str, float] = {}

    def take(self, step: int, figures: Mapping[str, float]) -> None:
        """Takes in an evaluation's figures; those of step 0 are the start."""
        self._now = {n: figures[n] for n in (IMAGES, *_WORDS) if n in figures}
        if step == 0:
            self._start = self._now

    def verdict(self) -> str | None:
        """`yes`, `no` or `unclear`, with the figures at the start and now.

        `yes`: the instance accuracy has risen by more than two standard errors. `no`: it has
        fallen by as much, or the embeddings have collapsed.

        Returns:
            None where the start is not known.
        """
        if INSTANCE_ACCURACY not in self._start or INSTANCE_ACCURACY not in self._now:
            return None
        before, after = self._start[INSTANCE_ACCURACY], self._now[INSTANCE_ACCURACY]
        images = int(self._now[IMAGES])
        noise = STANDARD_ERRORS * standard_error_of_difference(before, after, images)
        word = "yes" if after > before + noise else "no" if after < before - noise else "unclear"
        if self._now[SPREAD] < self._min_spread:
            word = "no, the embeddings have collapsed"
        changes = [
            words.format(self._start[name], self._now[name])
            for name, words in _WORDS.items()
            if name in self._start and name in self._now
        ]
        return f"{word}: {', '.join(changes)}"

    def state_dict(self) -> dict[str, Any]:
        """What it remembers, for a checkpoint."""
        return {"start": self._start, "now": self._now}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from a checkpoint; one of an earlier version has no start."""
        self._start, self._now = dict(state.get("start", {})), dict(state.get("now", {}))


_WORDS = {
    INSTANCE_ACCURACY: "instance accuracy {:.0f} -> {:.0f} %",
    SPREAD: "spread {:.2f} -> {:.2f}",
    OBJECT_SENSITIVITY: "object sensitivity {:.3f} -> {:.3f}",
}
