"""Values that change with the step: the learning rate and the weight of the hard negatives."""

import math
from dataclasses import dataclass


def linear_warmup(step: int, *, value: float, warmup_steps: int) -> float:
    """Rise linearly from 0 at step 0 to `value` at step `warmup_steps`, then stay.

    Meant for the weight of the hard negatives: at the start a masked key is still close to its key,
    and pushing it away at full weight outweighs the positive.

    Args:
        step: number of the step, from 0.
        value: the value to reach.
        warmup_steps: how many steps it takes; 0 gives `value` at once.

    Returns:
        The value at this step.
    """
    return value if step >= warmup_steps else value * step / warmup_steps


def cosine_lr(
    step: int, *, base_lr: float, total_steps: int, warmup_steps: int, final_lr: float = 0.0
) -> float:
    """Warm up linearly to `base_lr`, then follow half a cosine down to `final_lr`.

    The first step already has `base_lr / warmup_steps`: a step at 0 would be a step for nothing.
    The cosine starts at step `warmup_steps` with `base_lr` and would reach `final_lr` at step
    `total_steps`, one after the last (Loshchilov and Hutter, arXiv 1608.03983, without restarts).

    Args:
        step: number of the step, from 0.
        base_lr: the peak.
        total_steps: steps of the whole run, warm-up included.
        warmup_steps: steps of the warm-up; 0 for none.
        final_lr: the value at the end, and after it.

    Returns:
        The learning rate of this step.
    """
    if step < warmup_steps:
        return base_lr * (step + 1) / warmup_steps
    progress = min(1.0, (step - warmup_steps) / max(1, total_steps - warmup_steps))
    return final_lr + (base_lr - final_lr) * 0.5 * (1.0 + math.cos(math.pi * progress))


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


def half_cosine(moment: Moment, first: float, last: float) -> float:
    """From `first` at the first step to `last` at the end of a run, along half a cosine."""
    rise = (math.cos(math.pi * moment.step / moment.total_steps) + 1) / 2
    return last - (last - first) * rise
