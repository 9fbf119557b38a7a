"""Train a detector from a backbone's weights, and run it."""

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn
from torchvision.models.detection import MaskRCNN

from pipeline.core.errors import Diverged
from pipeline.core.progress import Standing, show, track
from training.core.schedules import cosine_lr
from training.evaluate.detection.annotations import BoxSet
from training.evaluate.detection.average_precision import Detection
from training.evaluate.detection.batches import Sample, plain_batches, training_batches
from training.evaluate.detection.coco_tools import mask_runs
from training.evaluate.detection_config import DetectionConfig

REPORTS = 20
"""Number of times that a training shows its mean loss."""
INSIDE = 0.5
"""Probability above which a pixel belongs to a mask."""


def train_detector(
    detector: nn.Module, images: BoxSet, config: DetectionConfig, *, seed: int, name: str = ""
) -> nn.Module:
    """Train in place by momentum SGD, the backbone and all that is new at one rate.

    The seed is that of order and flips; the caller seeds torch, from whose global generator
    proposals and sizes are drawn. Returns the detector in evaluation mode. Raises Diverged if the
    loss is no longer finite, InputError for an image that cannot be decoded.
    """
    weights = [weight for weight in detector.parameters() if weight.requires_grad]
    optimiser = torch.optim.SGD(
        weights, lr=config.lr, momentum=0.9, weight_decay=config.weight_decay
    )
    batches = training_batches(
        images,
        steps=config.steps,
        batch_size=config.batch_size,
        with_masks=isinstance(detector, MaskRCNN),
        seed=seed,
    )
    detector.train()
    recent: list[float] = []
    standing = Standing(work=f"detector of {name}", done=0, total=config.steps, unit="steps")
    show(standing)
    for step, batch in enumerate(batches):
        losses: dict[str, Tensor] = detector(*_on_device(batch, weights[0].device))
        loss = torch.stack(list(losses.values())).sum()
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(weights, config.clip)
        for group in optimiser.param_groups:
            group["lr"] = cosine_lr(
                step,
                base_lr=config.lr,
                total_steps=config.steps,
                warmup_steps=config.warmup_steps,
            )
        optimiser.step()
        recent.append(loss.item())
        if not np.isfinite(recent[-1]):
            raise Diverged(
                f"the detector's loss is {recent[-1]} at step {step + 1}: lower detection.lr "
                f"({config.lr:g}) or raise detection.warmup_steps ({config.warmup_steps})"
            )
        if (step + 1) % max(1, config.steps // REPORTS) == 0:
            parts = ", ".join(
                f"{k.removeprefix('loss_')} {float(v):.3f}" for k, v in losses.items()
            )
            standing = replace(standing, note=f"loss {np.mean(recent):.3f} (last: {parts})")
            recent = []
        show(replace(standing, done=step + 1))
    return detector.eval()


@torch.no_grad()
def detect(
    detector: nn.Module, images: BoxSet, *, device: torch.device, batch_size: int
) -> list[Detection]:
    """What a detector in evaluation mode finds in the images."""
    found: list[Detection] = []
    image_id = 0
    batches = plain_batches(images, batch_size=batch_size)
    for batch in track(batches, "detecting", images.num_images, "images", size=len):
        for result in detector(_on_device(batch, device)[0]):
            image_id += 1
            found += _detections(image_id, result)
    return found


def _on_device(
    batch: list[Sample], device: torch.device
) -> tuple[list[Tensor], list[dict[str, Tensor]]]:
    """Images float [3, H, W] in [0, 1], and their targets."""
    images = [image.to(device).float().div_(255) for image, _ in batch]
    targets = [{name: part.to(device) for name, part in target.items()} for _, target in batch]
    return images, targets


def _detections(image_id: int, result: dict[str, Tensor]) -> list[Detection]:
    boxes_N4 = result["boxes"].double().cpu()
    boxes_N4[:, 2:] -= boxes_N4[:, :2]
    found: list[Detection] = [
        {"image_id": image_id, "category_id": label - 1, "bbox": box, "score": score}
        for label, box, score in zip(
            result["labels"].tolist(), boxes_N4.tolist(), result["scores"].tolist(), strict=True
        )
    ]
    if "masks" in result:
        for one, inside_HW in zip(found, (result["masks"][:, 0] > INSIDE).cpu(), strict=True):
            one["segmentation"] = mask_runs(inside_HW.numpy())
    return found
