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
    """Follows a run's figures and warns once each time that one has gone wrong.

    `state` is for a checkpoint.
    """

    def __init__(self, config: CollapseConfig) -> None:
        self._config = config
        self.state: dict[str, Any] = {
            "untrained_knn": None,
            "knn_was_low": False,
            "collapsed": [],  # figures that are wrong now
        }

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
            self.state["untrained_knn"] = knn
        untrained, was_low = self.state["untrained_knn"], self.state["knn_was_low"]
        if untrained is None:
            return None
        error = standard_error_of_difference(knn, untrained, num_images)
        margin = self._config.knn_margin + STANDARD_ERRORS * error
        self.state["knn_was_low"] = low = knn < untrained - margin
        sign = (
            f"kNN is {knn:.2f} %, for the second time running more than {margin:.1f} points below "
            f"the {untrained:.2f} % of the untrained network ({num_images} validation images)"
        )
        return self._warning("knn", low and was_low, sign)

    def _warning(self, figure: str, wrong: bool, sign: str) -> str | None:
        collapsed = self.state["collapsed"]
        others = [one for one in collapsed if one != figure]
        self.state["collapsed"] = sorted([*others, figure]) if wrong else others
        advice = (
            "lower --optim.lr or lengthen --optim.warmup-epochs; with hard negatives lower "
            "--method.rho or --method.object-rho"
        )
        is_new = wrong and figure not in collapsed
        return f"the run has collapsed: {sign}; {advice}" if is_new else None


class Learning:
    """Compares the label-free figures of a run with those of its start; `state` as above."""

    def __init__(self, config: CollapseConfig) -> None:
        self._min_spread = config.min_spread
        self.state: dict[str, dict[str, float]] = {"start": {}, "now": {}}

    def take(self, step: int, figures: Mapping[str, float]) -> None:
        """Records an evaluation's figures; those of step 0 are the start."""
        now = {name: figures[name] for name in (IMAGES, *WORDS) if name in figures}
        self.state |= {"start": now, "now": now} if step == 0 else {"now": now}

    def verdict(self) -> str | None:
        """`yes`, `no` or `unclear` with the figures at the start and now; None without a start.

        `yes`: the instance accuracy has risen by more than two standard errors. `no`: it has
        fallen by as much, or the embeddings have collapsed.
        """
        start, now = self.state["start"], self.state["now"]
        if INSTANCE_ACCURACY not in start or INSTANCE_ACCURACY not in now:
            return None
        before, after = start[INSTANCE_ACCURACY], now[INSTANCE_ACCURACY]
        error = standard_error_of_difference(before, after, int(now[IMAGES]))
        noise = STANDARD_ERRORS * error
        word = "yes" if after > before + noise else "no" if after < before - noise else "unclear"
        if now[SPREAD] < self._min_spread:
            word = "no, the embeddings have collapsed"
        names = [name for name in WORDS if name in start and name in now]
        return f"{word}: {', '.join(WORDS[name].format(start[name], now[name]) for name in names)}"


def standard_error_of_difference(first: float, second: float, num_images: int) -> float:
    """Standard error of the difference of two accuracies in percent, in percentage points.

    sqrt((p (1 - p) + q (1 - q)) / V), as if the V images of each were different ones. On the same
    images it is at most that, unless the two networks' errors are negatively correlated.
    """
    return math.sqrt((first * (100 - first) + second * (100 - second)) / num_images)
