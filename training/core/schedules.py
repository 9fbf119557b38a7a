"""Values that change with the step: the learning rate and momenta."""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Moment:
    """Where in a run a step is.

    Attributes:
        step: global step, from 0.
        steps_per_epoch: global steps of an epoch.
        total_steps: global steps of the run.
    """

    step: int
    steps_per_epoch: int
    total_steps: int


def cosine_lr(
    step: int, *, base_lr: float, total_steps: int, warmup_steps: int, final_lr: float = 0.0
) -> float:
    """Warm up linearly to `base_lr`, then follow half a cosine down to `final_lr`.

    The cosine starts at step `warmup_steps` with `base_lr` and reaches `final_lr` at step
    `total_steps`, one after the last (Loshchilov and Hutter, arXiv 1608.03983, without restarts).

    Args:
        step: global step, from 0.
        base_lr: the peak.
        total_steps: steps of the whole run, warm-up included.
        warmup_steps: steps of the warm-up; 0 for none.
        final_lr: the value at the end, and after it.
    """
    if step < warmup_steps:
        return base_lr * (step + 1) / warmup_steps  # a first step at 0 would do nothing
    progress = min(1.0, (step - warmup_steps) / max(1, total_steps - warmup_steps))
    return final_lr + (base_lr - final_lr) * 0.5 * (1.0 + math.cos(math.pi * progress))


def half_cosine(moment: Moment, first: float, last: float) -> float:
    """From `first` at the first step to `last` at the end of a run, along half a cosine."""
    rise = (math.cos(math.pi * moment.step / moment.total_steps) + 1) / 2
    return last - (last - first) * rise
