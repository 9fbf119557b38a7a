"""Tells when a run has collapsed: embeddings without spread, or a kNN accuracy that stays low.

The loss does not tell: identical embeddings give log(K + 1 + N * exp((rho - 1) / temperature)),
which is close to where a run begins.
"""

import math
from dataclasses import dataclass
from typing import Any

from pipeline.core.errors import InputError

STANDARD_ERRORS = 2.0
"""By which two kNN accuracies of the same network would differ in one case of twenty."""


@dataclass(frozen=True, kw_only=True)
class CollapseConfig:
    """From when on a run counts as collapsed.

    Attributes:
        min_spread: least spread of the embeddings, in [0, 1): 1 is all over the sphere, 0 is one
            point.
        after_steps: steps for which the spread is not looked at, 0 or more; an untrained network
            has little.
        knn_margin: percentage points, 0 or more, that the kNN accuracy may be below the untrained
            network's at two evaluations running, beside two standard errors of the difference
            (few validation images say little: 18 points for 60 of them at 40 %).
    """

    min_spread: float = 0.1
    after_steps: int = 200
    knn_margin: float = 3.0

    def __post_init__(self) -> None:
        if not 0 <= self.min_spread < 1:
            raise InputError(f"collapse.min_spread {self.min_spread} must be in [0, 1)")
        if self.after_steps < 0 or self.knn_margin < 0:
            raise InputError("collapse.after_steps and collapse.knn_margin must not be negative")


class CollapseWatch:
    """Follows a run's figures, the same on every rank, and speaks when one has gone wrong anew."""

    def __init__(self, config: CollapseConfig) -> None:
        self._config = config
        self._untrained_knn: float | None = None
        self._knn_was_low = False
        self._collapsed: set[str] = set()

    def look_at_spread(self, step: int, spread: float) -> str | None:
        """Takes in the spread of the embeddings (`embedding_spread`), mean of the last steps.

        Returns:
            A warning, when it was sound and is no longer; else None.
        """
        limit = self._config.min_spread
        wrong = step > self._config.after_steps and spread < limit
        sign = f"the embeddings have next to no spread ({spread:.3g}, below {limit:g})"
        return self._warning("spread", wrong, sign)

    def look_at_knn(self, step: int, knn: float, num_images: int) -> str | None:
        """Takes in a kNN accuracy; that of step 0 is the untrained network's.

        A network that leaves its random start may be worse for a while, so it is wrong when it is
        low twice running.

        Args:
            step: global steps done.
            knn: top-1 in percent.
            num_images: validation images that it was measured on.

        Returns:
            A warning, when it was sound and is no longer; else None.
        """
        if step == 0:
            self._untrained_knn = knn
        if self._untrained_knn is None:
            return None
        untrained = self._untrained_knn
        margin = self._config.knn_margin
        margin += STANDARD_ERRORS * standard_error_of_difference(knn, untrained, num_images)
        low = knn < untrained - margin
        wrong, self._knn_was_low = low and self._knn_was_low, low
        sign = (
            f"kNN is {knn:.2f} %, for the second time running more than {margin:.1f} points below "
            f"the {untrained:.2f} % of the untrained network ({num_images} validation images)"
        )
        return self._warning("knn", wrong, sign)

    def _warning(self, figure: str, wrong: bool, sign: str) -> str | None:
        anew = wrong and figure not in self._collapsed
        self._collapsed = self._collapsed - {figure} | ({figure} if wrong else set())
        if not anew:
            return None
        return (
            f"the run has collapsed: {sign}; lower optim.lr or rho, lengthen their warm-up, or "
            "raise the temperature"
        )

    def state_dict(self) -> dict[str, Any]:
        """What it remembers, for a checkpoint."""
        return {
            "untrained_knn": self._untrained_knn,
            "knn_was_low": self._knn_was_low,
            "collapsed": sorted(self._collapsed),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from a checkpoint."""
        self._untrained_knn, self._collapsed = state["untrained_knn"], set(state["collapsed"])
        self._knn_was_low = state.get("knn_was_low", False)  # older checkpoints do not tell


def standard_error_of_difference(first: float, second: float, num_images: int) -> float:
    """Of two accuracies in percent, each of `num_images` images, in percentage points.

    As if the images were different ones: sqrt((p (1 - p) + q (1 - q)) / V). On the same images it
    is at most that as long as the two networks' errors are not negatively correlated.
    """
    variance = sum(share * (100 - share) for share in (first, second))
    return math.sqrt(variance / num_images)
