"""Values that change with the step: the learning rate and momenta."""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Moment:
    """Where in a run a step is: global steps, the first of which is 0."""

    step: int
    steps_per_epoch: int
    total_steps: int


def cosine_lr(step: int, *, base_lr: float, total_steps: int, warmup_steps: int) -> float:
    """The learning rate at global ``step``, from 0.

    Rises linearly to ``base_lr`` over the warm-up, then falls along half a cosine from ``base_lr``
    at step ``warmup_steps`` to 0 at step ``total_steps``, one after the last, and stays there
    (Loshchilov and Hutter, arXiv 1608.03983, without restarts).
    """
    if step < warmup_steps:
        return base_lr * (step + 1) / warmup_steps  # a first step at 0 would do nothing
    progress = min(1.0, (step - warmup_steps) / max(1, total_steps - warmup_steps))
    return base_lr * 0.5 * (1.0 + math.cos(math.pi * progress))


def half_cosine(moment: Moment, first: float, last: float) -> float:
    """From `first` at the first step to `last` at the end of a run, along half a cosine."""
    rise = (math.cos(math.pi * moment.step / moment.total_steps) + 1) / 2
    return last - (last - first) * rise
