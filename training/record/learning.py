"""Whether a run learns: warnings of a collapse while it trains, and a verdict at its end.

The loss alone does not show a collapse: identical embeddings give log(K + 1 + N * exp((rho - 1) /
temperature)), which is close to the loss of an untrained network.
"""

import math
from collections.abc import Mapping
from typing import Any

from training.config.settings import CollapseConfig
from training.evaluate.checks import IMAGES, INSTANCE_ACCURACY, OBJECT_SENSITIVITY, SPREAD

STANDARD_ERRORS = 2.0
"""By which two accuracies of the same network would differ in one case of twenty."""
WORDS = {
    INSTANCE_ACCURACY: "instance accuracy {:.0f} -> {:.0f} %",
    SPREAD: "spread {:.2f} -> {:.2f}",
    OBJECT_SENSITIVITY: "object sensitivity {:.3f} -> {:.3f}",
}


class CollapseWatch:
    """Follows a run's figures and warns once each time that one has gone wrong."""

    def __init__(self, config: CollapseConfig) -> None:
        self._config = config
        self._untrained_knn: float | None = None
        self._knn_was_low = False
        self._collapsed: set[str] = set()

    def look_at_spread(self, step: int, spread: float) -> str | None:
        """A warning where the mean spread of the embeddings of the last steps is newly too low."""
        limit = self._config.min_spread
        wrong = step > self._config.after_steps and spread < limit
        sign = f"the embeddings have next to no spread ({spread:.3g}, below {limit:g})"
        return self._warning("spread", wrong, sign)

    def look_at_knn(self, step: int, knn: float, num_images: int) -> str | None:
        """A warning where the kNN accuracy is low for the second time running.

        A network that leaves its random start may be worse for a while.

        Args:
            step: global steps done; the accuracy of step 0 is the untrained network's.
            knn: top-1 in percent.
            num_images: validation images that it was measured on.
        """
        if step == 0:
            self._untrained_knn = knn
        if self._untrained_knn is None:
            return None
        untrained, margin = self._untrained_knn, self._config.knn_margin
        margin += STANDARD_ERRORS * standard_error_of_difference(knn, untrained, num_images)
        low = knn < untrained - margin
        wrong, self._knn_was_low = low and self._knn_was_low, low
        sign = (
            f"kNN is {knn:.2f} %, for the second time running more than {margin:.1f} points below "
            f"the {untrained:.2f} % of the untrained network ({num_images} validation images)"
        )
        return self._warning("knn", wrong, sign)

    def _warning(self, figure: str, wrong: bool, sign: str) -> str | None:
        is_new = wrong and figure not in self._collapsed
        self._collapsed = self._collapsed - {figure} | ({figure} if wrong else set())
        advice = "lower optim.lr or rho, lengthen their warm-up, or raise the temperature"
        return f"the run has collapsed: {sign}; {advice}" if is_new else None

    def state_dict(self) -> dict[str, Any]:
        """State for a checkpoint."""
        return {
            "untrained_knn": self._untrained_knn,
            "knn_was_low": self._knn_was_low,
            "collapsed": sorted(self._collapsed),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores the state of a checkpoint."""
        self._untrained_knn, self._collapsed = state["untrained_knn"], set(state["collapsed"])
        self._knn_was_low = state.get("knn_was_low", False)  # absent in older checkpoints


class Learning:
    """Compares the label-free figures of a run with those of its start."""

    def __init__(self, config: CollapseConfig) -> None:
        self._min_spread = config.min_spread
        self._start: dict[str, float] = {}
        self._now: dict[str, float] = {}

    def take(self, step: int, figures: Mapping[str, float]) -> None:
        """Records an evaluation's figures; those of step 0 are the start."""
        self._now = {name: figures[name] for name in (IMAGES, *WORDS) if name in figures}
        if step == 0:
            self._start = self._now

    def verdict(self) -> str | None:
        """`yes`, `no` or `unclear` with the figures at the start and now; None without a start.

        `yes`: the instance accuracy has risen by more than two standard errors. `no`: it has
        fallen by as much, or the embeddings have collapsed.
        """
        start, now = self._start, self._now
        if INSTANCE_ACCURACY not in start or INSTANCE_ACCURACY not in now:
            return None
        before, after = start[INSTANCE_ACCURACY], now[INSTANCE_ACCURACY]
        error = standard_error_of_difference(before, after, int(now[IMAGES]))
        noise = STANDARD_ERRORS * error
        word = "yes" if after > before + noise else "no" if after < before - noise else "unclear"
        if now[SPREAD] < self._min_spread:
            word = "no, the embeddings have collapsed"
        names = [name for name in WORDS if name in start and name in now]
        changes = [WORDS[name].format(start[name], now[name]) for name in names]
        return f"{word}: {', '.join(changes)}"

    def state_dict(self) -> dict[str, Any]:
        """State for a checkpoint."""
        return {"start": self._start, "now": self._now}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores the state of a checkpoint; one of an earlier version has no start."""
        self._start, self._now = dict(state.get("start", {})), dict(state.get("now", {}))


def standard_error_of_difference(first: float, second: float, num_images: int) -> float:
    """Standard error of the difference of two accuracies in percent, in percentage points.

    sqrt((p (1 - p) + q (1 - q)) / V), as if the V images of each were different ones. On the same
    images it is at most that, unless the two networks' errors are negatively correlated.
    """
    return math.sqrt((first * (100 - first) + second * (100 - second)) / num_images)
