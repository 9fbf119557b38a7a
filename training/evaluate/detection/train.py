"""Load images with boxes as tensors; train a detector from a backbone's weights, and run it.

Shapes: H W pixels, N boxes of an image.
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import count, islice

import numpy as np
import torch
from torch import Tensor, nn
from torchvision.models.detection import MaskRCNN

from pipeline.core.errors import Diverged, ImageError, InputError
from pipeline.core.progress import Standing, show, track
from pipeline.images.source_image import decode_source
from training.core.schedules import cosine_lr
from training.evaluate.config import DetectionConfig
from training.evaluate.detection.average_precision import Detection
from training.evaluate.detection.boxes import BoxSet
from training.evaluate.detection.readers import Annotated, coco_tools, outline_runs
from training.evaluate.features import loaded_ahead
from training.randomness.draws import sample_seeds

Target = dict[str, Tensor]
Sample = tuple[Tensor, Target]
"""uint8 [3, H, W]; boxes float32 [N, 4], labels int64 [N] from 1, perhaps masks uint8 [N, H, W]."""
NUM_THREADS = min(8, os.cpu_count() or 1)
"""That decode."""
ORDER_DOMAIN, FLIP_DOMAIN = 0x424F5845, 0x464C4950
"""Keep the hashes of order and flips apart from each other and from others'."""
REPORTS = 20
"""Number of times that a training shows its mean loss."""
INSIDE = 0.5
"""Probability above which a pixel belongs to a mask."""


def training_batches(
    images: BoxSet, *, steps: int, batch_size: int, with_masks: bool, seed: int
) -> Iterator[list[Sample]]:
    """Yield every step's batch, from shuffled passes without end; half of the images are flipped.

    Ignored objects are left out of the targets; `with_masks` adds masks to them.
    """
    items = _shuffled(images.num_images, seed)
    batches = (list(islice(items, batch_size)) for _ in range(steps))
    return loaded_samples(images, batches, with_masks=with_masks)


def _shuffled(num_images: int, seed: int) -> Iterator[tuple[int, bool]]:
    """Numbers of images, and whether they are flipped, epoch by epoch without end."""
    numbers = np.arange(num_images)
    for epoch in count():
        order = np.argsort(sample_seeds(seed + ORDER_DOMAIN, epoch, numbers), kind="stable")
        flips = sample_seeds(seed + FLIP_DOMAIN, epoch, numbers) & 1
        yield from ((number, bool(flips[number])) for number in order.tolist())


def loaded_samples(
    images: BoxSet, batches: Iterable[list[tuple[int, bool]]], *, with_masks: bool
) -> Iterator[list[Sample]]:
    """Yield batches of images by their numbers, each with whether it is flipped."""

    def load(item: tuple[int, bool]) -> Sample:
        number, flip = item
        picture = images.pictures[number]
        target = target_of(picture, images.class_names, with_masks=with_masks)
        return flipped(image_of(picture), target) if flip else (image_of(picture), target)

    return loaded_ahead(batches, load, num_threads=NUM_THREADS)


def image_of(picture: Annotated) -> Tensor:
    """Decode an image, uint8 RGB [3, H, W]; raises InputError naming what cannot be decoded."""
    try:
        pixels_HW3 = decode_source(picture.file.read_bytes()).pixels
    except (OSError, ImageError) as error:
        raise InputError(f"{picture.file}: {error} (move it and its boxes away)") from error
    assert pixels_HW3.shape[:2] == (picture.height, picture.width), picture.file
    return torch.from_numpy(pixels_HW3.copy()).permute(2, 0, 1)


def target_of(picture: Annotated, class_names: Sequence[str], *, with_masks: bool) -> Target:
    """The boxes to learn from; their labels are indices into the class names, from 1."""
    boxes = [box for box in picture.boxes if not box.ignored]
    corners = np.array([box.box for box in boxes], dtype=np.float32).reshape(-1, 4)
    labels = np.array([class_names.index(box.name) + 1 for box in boxes], dtype=np.int64)
    target = {"boxes": torch.from_numpy(corners), "labels": torch.from_numpy(labels)}
    if with_masks:
        size, decode = (picture.height, picture.width), coco_tools("mask").decode
        masks = [decode(outline_runs(box.outline, *size)) for box in boxes]
        target["masks"] = torch.from_numpy(np.array(masks, np.uint8).reshape(-1, *size))
    return target


def flipped(image_3HW: Tensor, target: Target) -> Sample:
    """The mirror image, left for right, with its boxes and masks."""
    width = image_3HW.shape[-1]
    x0, y0, x1, y1 = target["boxes"].unbind(dim=1)
    mirrored = target | {"boxes": torch.stack((width - x1, y0, width - x0, y1), dim=1)}
    if "masks" in target:
        mirrored["masks"] = target["masks"].flip(-1)
    return image_3HW.flip(-1), mirrored


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
    steps, warmup_steps = config.steps, config.warmup_steps
    detector.train()
    recent: list[float] = []
    standing = Standing(work=f"detector of {name}", done=0, total=steps, unit="steps")
    show(standing)
    for step, batch in enumerate(batches):
        losses: dict[str, Tensor] = detector(*_on_device(batch, weights[0].device))
        loss = torch.stack(list(losses.values())).sum()
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(weights, config.clip)
        optimiser.param_groups[0]["lr"] = cosine_lr(
            step, base_lr=config.lr, total_steps=steps, warmup_steps=warmup_steps
        )
        optimiser.step()
        recent.append(loss.item())
        if not np.isfinite(recent[-1]):
            raise Diverged(
                f"the detector's loss is {recent[-1]} at step {step + 1}: lower detection.lr "
                f"({config.lr:g}) or raise detection.warmup_steps ({warmup_steps})"
            )
        if (step + 1) % max(1, steps // REPORTS) == 0:
            parts = [f"{k.removeprefix('loss_')} {v.item():.3f}" for k, v in losses.items()]
            note = f"loss {np.mean(recent):.3f} (last: {', '.join(parts)})"
            standing, recent = replace(standing, note=note), []
        show(replace(standing, done=step + 1))
    return detector.eval()


@torch.no_grad()
def detect(
    detector: nn.Module, images: BoxSet, *, device: torch.device, batch_size: int
) -> list[Detection]:
    """What a detector in evaluation mode finds in the images."""
    found: list[Detection] = []
    numbers, whole = count(1), [(number, False) for number in range(images.num_images)]
    items = (whole[start : start + batch_size] for start in range(0, len(whole), batch_size))
    batches = loaded_samples(images, items, with_masks=False)
    for batch in track(batches, "detecting", images.num_images, "images", size=len):
        for result in detector(_on_device(batch, device)[0]):
            found += _detections(next(numbers), result)
    return found


def _on_device(batch: list[Sample], device: torch.device) -> tuple[list[Tensor], list[Target]]:
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
        encode = coco_tools("mask").encode
        inside_NHW = (result["masks"][:, 0] > INSIDE).cpu().numpy().astype(np.uint8)
        for one, inside_HW in zip(found, inside_NHW, strict=True):
            one["segmentation"] = encode(np.asfortranarray(inside_HW))
    return found
