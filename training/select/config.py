"""Settings of a selection. They import no torch."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pipeline.core.errors import check
from pipeline.storage.storage import Location
from training.config.settings import check_least

NUM_ENCODERS = {"cosine": 1, "loss_ratio": 2, "random": 0}
"""That a score takes: of the pool, and of the target."""


@dataclass(frozen=True, kw_only=True)
class ChooseConfig:
    """Choose the images of a pool that are most like those of a target, to pretrain on them.

    The same command goes on where it was broken off. With another budget or diversity the scores
    are used again, and the selection is replaced.

    Attributes:
        pool: shards to choose from: a folder or bucket that jobs/precompute.py wrote.
        target: shards, or a folder of class folders, that show what is wanted, without labels.
        out: folder of scores and selection; on a cluster one that every node sees.
        checkpoint: a run, a checkpoint or an exported backbone, trained on the pool or the like.
        target_checkpoint: one that was trained on the target, for score loss_ratio.
        budget: share of the pool's images that is chosen, in (0, 1].
        score: cosine, the mean of the 5 greatest cosines to features of the target; loss_ratio, by
            how much an image's contrastive loss is lower under the target's encoder than under the
            pool's; random, a control without encoders.
        diversity: sqrt: maximise the sum over clusters of sqrt(sum of what the chosen images score
            above the pool's mean); none: take the greatest scores.
        clusters: of the pool's features, 1 or more.
        seed: of the clusters and of score random, 0 or more.
        local: in this process, without Ray.
    """

    pool: Location
    target: Location
    out: Path
    checkpoint: Path | None = None
    target_checkpoint: Path | None = None
    budget: float = 0.25
    score: Literal["cosine", "loss_ratio", "random"] = "cosine"
    diversity: Literal["sqrt", "none"] = "none"
    clusters: int = 64
    seed: int = 0
    local: bool = False

    def __post_init__(self) -> None:
        check(0 < self.budget <= 1, f"--budget {self.budget:g} must be in (0, 1]")
        check_least(self, "--", clusters=1, seed=0)
        num, names = NUM_ENCODERS[self.score], ("--checkpoint", "--target-checkpoint")
        given = [path is not None for path in (self.checkpoint, self.target_checkpoint)]
        wanted = " and ".join(names[:num]) or "no checkpoint"
        extra = [name for name, there in zip(names[num:], given[num:], strict=True) if there]
        which = f", not {' and '.join(extra)}" if extra else ""
        check(given == [num > 0, num > 1], f"--score {self.score} wants {wanted}{which}")
