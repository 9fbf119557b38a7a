"""Evaluate backbones by detection: each in a detector of its own, trained alike."""

from collections.abc import Iterator
from dataclasses import asdict

import torch

from pipeline.core.errors import check
from pipeline.core.progress import say
from training.evaluate.config import EvaluateConfig
from training.evaluate.detection.average_precision import Kind, average_precisions
from training.evaluate.detection.boxes import BoxSet, box_pair
from training.evaluate.detection.network import build_detector, check_adapter
from training.evaluate.detection.readers import coco_tools
from training.evaluate.detection.train import detect, train_detector
from training.evaluate.encoders import NamedEncoder, load_encoders
from training.evaluate.results import Result

NAMES: dict[Kind, str] = {"bbox": "box", "segm": "mask"}


def detection(config: EvaluateConfig, device: torch.device) -> Iterator[list[Result]]:
    """Train and score a detector for every checkpoint, one after the other, in this process.

    All of them see the same batches, and their new weights are the same. Yields the figures of
    each checkpoint as soon as they are there.

    Raises:
        InputError: data or checkpoints that cannot be read or do not fit; masks asked for where
            there are none; an architecture without an adapter; no pycocotools.
    """
    coco_tools("mask")  # if it is missing, stop before anything is trained
    settings = config.detection
    train, val = sets = box_pair(
        config.train,
        config.val,
        classes=settings.classes,
        val_share=settings.val_share,
        seed=config.seed,
    )
    lacking = ", ".join(str(images.root) for images in sets if not images.has_outlines)
    check(
        settings.masks != "yes" or not lacking,
        f"detection.masks yes, but not every box of {lacking} has a mask (COCO's segmentation): "
        "give those, or leave the masks out",
    )
    with_masks = settings.masks != "no" and not lacking
    encoders = load_encoders(
        config.checkpoint, encoder=config.encoder, seed=config.seed, device=device
    )
    for encoder in encoders:
        check_adapter(encoder.info.architecture)
        encoder.info.pixels.check_rgb("detection")
    for part, images in (("training", train), ("validation", val)):
        num_empty = sum(not picture.boxes for picture in images.pictures)
        say(
            f"{part}: {images.num_images} images of {images.root}, {images.num_boxes} boxes; "
            f"{num_empty} images without a box; image files without an annotation, left "
            f"out: {images.num_left_out}"
        )
    for encoder in encoders:
        yield _score(encoder, train, val, config, with_masks=with_masks)


def _score(
    encoder: NamedEncoder, train: BoxSet, val: BoxSet, config: EvaluateConfig, *, with_masks: bool
) -> list[Result]:
    settings, device = config.detection, encoder.device
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(config.seed)
        detector = build_detector(
            encoder.network,
            encoder.info,
            settings,
            num_classes=len(train.class_names),
            with_masks=with_masks,
            autocast_dtype=torch.bfloat16 if config.bf16 else None,
        )
        train_detector(detector, train, settings, seed=config.seed, name=encoder.name)
    found = detect(detector, val, device=device, batch_size=settings.batch_size)
    about = asdict(settings) | {
        "bf16": config.bf16,
        "device": device.type,
        "classes": list(val.class_names),
        "boxes_train": train.num_boxes,
        "boxes_val": val.num_boxes,
        "images_left_out": train.num_left_out + val.num_left_out,
        "with_masks": with_masks,
    }
    kinds: tuple[Kind, ...] = ("bbox", "segm") if with_masks else ("bbox",)
    return [
        encoder.result(
            train,
            val,
            protocol="detection",
            variant=settings.head,
            seed=config.seed,
            name=f"{NAMES[kind]} {measure}",
            figure=precision.figure,
            interval=precision.interval,
            settings=about,
        )
        for kind in kinds
        for measure, precision in average_precisions(val, found, kind, seed=config.seed).items()
    ]
