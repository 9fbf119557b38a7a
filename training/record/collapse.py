"""Tells when a run has collapsed: embeddings without spread, or a kNN accuracy that falls.

The loss does not tell: identical embeddings give log(K + 1 + N * exp((rho - 1) / temperature)),
which is close to where a run begins.
"""

from dataclasses import dataclass
from typing import Any

from pipeline.errors import InputError


@dataclass(frozen=True, kw_only=True)
class CollapseConfig:
    """From when on a run counts as collapsed.

    Attributes:
        min_spread: least spread of the embeddings, in [0, 1): 1 is all over the sphere, 0 is one
            point.
        after_steps: steps for which the spread is not looked at, 0 or more; an untrained network
            has little.
        knn_margin: percentage points, 0 or more, that the kNN accuracy may be below the untrained
            network's.
    """

    min_spread: float = 0.1
    after_steps: int = 200
    knn_margin: float = 3.0

    def __post_init__(self) -> None:
        if not 0 <= self.min_spread < 1:
            raise InputError(f"collapse.min_spread {self.min_spread} must be in [0, 1)")
        if self.after_steps < 0 or self.knn_margin < 0:
            raise InputError("collapse.after_steps and collapse.knn_margin must not be negative")


def collapse_signs(
    *,
    config: CollapseConfig,
    step: int,
    spread: float | None = None,
    knn: float | None = None,
    untrained_knn: float | None = None,
) -> list[str]:
    """The signs of a collapse in a run's figures; none in a healthy run's.

    Args:
        config: limits.
        step: global steps done.
        spread: of the embeddings (`embedding_spread`), mean of the last steps.
        knn: accuracy in percent.
        untrained_knn: accuracy before the first step.

    Returns:
        What is wrong, each with its numbers.
    """
    signs = []
    if spread is not None and step > config.after_steps and spread < config.min_spread:
        signs.append(
            f"the embeddings have next to no spread ({spread:.3g}, below {config.min_spread:g})"
        )
    if knn is not None and untrained_knn is not None and knn < untrained_knn - config.knn_margin:
        signs.append(
            f"kNN is {knn:.2f} %, more than {config.knn_margin:g} points below the "
            f"{untrained_knn:.2f} % of the untrained network"
        )
    return signs


class CollapseWatch:
    """Follows a run's figures, the same on every rank, and speaks when signs come up anew."""

    def __init__(self, config: CollapseConfig) -> None:
        self._config = config
        self._untrained_knn: float | None = None
        self._collapsed: set[str] = set()

    def look(
        self, step: int, *, spread: float | None = None, knn: float | None = None
    ) -> str | None:
        """Takes in new figures.

        Returns:
            A warning, when a figure that was sound has gone wrong; else None.
        """
        if knn is not None and step == 0:
            self._untrained_knn = knn
        new = []
        for name, figure in (("spread", spread), ("knn", knn)):
            if figure is None:
                continue
            signs = collapse_signs(
                config=self._config,
                step=step,
                spread=figure if name == "spread" else None,
                knn=figure if name == "knn" else None,
                untrained_knn=self._untrained_knn,
            )
            if signs and name not in self._collapsed:
                new += signs
            self._collapsed = self._collapsed - {name} | ({name} if signs else set())
        if not new:
            return None
        return (
            f"the run has collapsed at step {step}: {' and '.join(new)}; lower optim.lr or rho, "
            "lengthen their warm-up, or raise the temperature"
        )

    def state_dict(self) -> dict[str, Any]:
        """What it remembers, for a checkpoint."""
        return {"untrained_knn": self._untrained_knn, "collapsed": sorted(self._collapsed)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from a checkpoint."""
        self._untrained_knn, self._collapsed = state["untrained_knn"], set(state["collapsed"])
