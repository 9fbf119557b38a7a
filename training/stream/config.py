"""A stream of sets: the runs that follow from it. It imports no torch."""

from dataclasses import dataclass, replace
from pathlib import Path

from pipeline.core.errors import check
from pipeline.storage.storage import Location
from training.config.pretrain import PretrainConfig
from training.config.stages import AnchorConfig, ReplayConfig


@dataclass(frozen=True, kw_only=True)
class Stream:
    """Sets that arrive one after the other; each stage is a run that starts from the one before.

    After Hu et al., "How Well Does Self-Supervised Pre-Training Perform with Streaming Data?",
    arXiv 2104.12081.

    Attributes:
        stages: shards of each stage, in the order in which they arrive.
        val: for each stage other images of its kind, or empty.
        joint: whether one more run trains on all sets at once, for as many steps.
        base: settings of every stage; its ``out`` is the folder of the stream. What it starts from
            is the first stage's start, and what it replays, every stage's.
    """

    stages: tuple[Location, ...]
    val: tuple[Location, ...] = ()
    joint: bool = False
    base: PretrainConfig

    def __post_init__(self) -> None:
        stages, val, extend = len(self.stages), len(self.val), self.base.extend
        check(extend is None, f"--extend {extend}: it is for one run, not for a stream")
        chosen = self.base.selection
        check(chosen is None, f"--selection {chosen}: it is for one set, not for a stream")
        check(stages > 0, "a stream has no --stages: name the shards of one or more")
        check(
            val in (0, stages),
            f"{val} --val for {stages} --stages: give one for each stage, or none",
        )

    def stage(self, number: int) -> PretrainConfig:
        """The run of a stage."""
        base, is_first = self.base, number == 0
        start = base.start_from if is_first else stage_folder(base.out, number - 1)
        replayed = (*base.replay.shards, *self.stages[:number]) if base.replay.share else ()
        return replace(
            base,
            shards=self.stages[number],
            out=stage_folder(base.out, number),
            start_from=start,
            encoder=base.encoder if is_first else replace(base.encoder, init=None),
            replay=replace(base.replay, shards=replayed) if replayed else ReplayConfig(share=0.0),
            anchor=AnchorConfig() if start is None else base.anchor,
        )

    def joint_run(self, images: list[int], epoch_steps: int) -> PretrainConfig:
        """The run on all sets: every batch has of each as its share of all images.

        Args:
            images: of each stage's set.
            epoch_steps: so many steps count as an epoch: those of all stages' epochs together.
        """
        base, others = self.base, sum(images[1:])
        least = 1 / base.batch_size  # of a batch: one image
        share = min(max(others / sum(images), least), 1 - least) if others else 0.0
        everything = ReplayConfig(shards=self.stages[1:], share=share, keep=base.data_fraction)
        return replace(
            base,
            shards=self.stages[0],
            out=base.out / "joint",
            epoch_steps=epoch_steps,
            replay=everything,
            anchor=AnchorConfig(),
        )


def stage_folder(out: Path, number: int) -> Path:
    """The folder of a stage's run."""
    return out / f"stage-{number:02d}"
