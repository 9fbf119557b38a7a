"""A detector trained from a backbone's weights, and what it then finds.

Shapes: N detections of an image.
"""

from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.core.errors import InputError
from pipeline.core.progress import Standing, show, track
from training.core.schedules import cosine_lr
from training.evaluate.detection.annotations import BoxSet
from training.evaluate.detection.average_precision import Detections
from training.evaluate.detection.batches import Sample, plain_batches, training_batches
from training.evaluate.detection.coco_tools import mask_runs
from training.evaluate.detection.config import DetectionConfig

REPORTS = 20
"""How often in a training its losses are shown anew."""
INSIDE = 0.5
"""Probability from which a pixel belongs to a mask."""


def train_detector(
    detector: nn.Module,
    images: BoxSet,
    config: DetectionConfig,
    *,
    with_masks: bool,
    device: torch.device,
    seed: int,
    num_threads: int,
    name: str = "",
) -> nn.Module:
    """Train in place by momentum SGD, the backbone and all that is new at one rate.

    The caller seeds torch: proposals and sizes are drawn from its global generator.

    Args:
        detector: on `device`.
        images: to learn from.
        config: settings.
        with_masks: whether it learns masks.
        device: that computes.
        seed: of order and flips.
        num_threads: that decode.
        name: of the backbone, for the progress.

    Returns:
        The detector, in evaluation mode.

    Raises:
        InputError: a loss that is no longer finite, an image that cannot be decoded.
    """
    weights = [weight for weight in detector.parameters() if weight.requires_grad]
    optimiser = torch.optim.SGD(
        weights, lr=config.lr, momentum=0.9, weight_decay=config.weight_decay
    )
    rate = partial(
        cosine_lr, base_lr=config.lr, total_steps=config.steps, warmup_steps=config.warmup_steps
    )
    batches = training_batches(
        images,
        steps=config.steps,
        batch_size=config.batch_size,
        with_masks=with_masks,
        seed=seed,
        num_threads=num_threads,
    )
    detector.train()
    recent: list[float] = []
    standing = Standing(work=f"detector of {name}", done=0, total=config.steps, unit="steps")
    show(standing)
    for step, batch in enumerate(batches):
        losses: dict[str, Tensor] = detector(*_on_device(batch, device))
        loss = torch.stack(list(losses.values())).sum()
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(weights, config.clip)
        for group in optimiser.param_groups:
            group["lr"] = rate(step)
        optimiser.step()
        recent.append(loss.item())
        if not np.isfinite(recent[-1]):
            raise InputError(
                f"the detector's loss is {recent[-1]} at step {step + 1}: lower detection.lr "
                f"({config.lr:g}) or raise detection.warmup_steps ({config.warmup_steps})"
            )
        if (step + 1) % max(1, config.steps // REPORTS) == 0:
            parts = ", ".join(
                f"{k.removeprefix('loss_')} {v.item():.3f}" for k, v in losses.items()
            )
            standing = replace(standing, note=f"loss {np.mean(recent):.3f} (last: {parts})")
            recent = []
        show(replace(standing, done=step + 1))
    return detector.eval()


@torch.no_grad()
def detect(
    detector: nn.Module, images: BoxSet, *, device: torch.device, batch_size: int, num_threads: int
) -> list[Detections]:
    """What a detector in evaluation mode finds in each image."""
    found = []
    batches = plain_batches(images, batch_size=batch_size, num_threads=num_threads)
    for batch in track(batches, "detecting", images.num_images, "images", size=len):
        pictures, _ = _on_device(batch, device)
        found += [_detections(one) for one in detector(pictures)]
    return found


def _on_device(
    batch: list[Sample], device: torch.device
) -> tuple[list[Tensor], list[dict[str, Tensor]]]:
    """Images float [3, H, W] in [0, 1], and their targets."""
    images = [image.to(device).float().div_(255) for image, _ in batch]
    targets = [{name: part.to(device) for name, part in target.items()} for _, target in batch]
    return images, targets


def _detections(result: dict[str, Tensor]) -> Detections:
    masks: tuple[dict[str, Any], ...] | None = None
    if "masks" in result:
        inside_NHW = (result["masks"][:, 0] > INSIDE).cpu().numpy()
        masks = tuple(mask_runs(inside_HW) for inside_HW in inside_NHW)
    return Detections(
        boxes_N4=result["boxes"].double().cpu().numpy(),
        scores_N=result["scores"].double().cpu().numpy(),
        labels_N=result["labels"].cpu().numpy() - 1,
        masks=masks,
    )
