"""Small shard sets with pictures made on the spot, for tests that need something to train on."""

import hashlib
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.codecs import encode_saliency
from pipeline.manifest import (
    DatasetInfo,
    ShardRecord,
    write_dataset_info,
    write_manifest,
    write_rejected,
)
from pipeline.schema import SALIENCY_SIZE, SCHEMA_VERSION, sample_key, shard_name
from pipeline.shards import NewSample, open_shard

CLASS_COLOURS = ((220, 60, 50), (60, 180, 80), (70, 90, 220))


def picture(number: int) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """A coloured square on noise, and its true mask: RGB uint8 [H, W, 3], float32 [H, W]."""
    rng = np.random.default_rng(number)
    height, width = (int(side) for side in rng.integers(56, 96, size=2))
    image = rng.integers(90, 160, size=(height, width, 3), dtype=np.uint8)
    side = min(height, width) // 2
    top, left = int(rng.integers(0, height - side)), int(rng.integers(0, width - side))
    image[top : top + side, left : left + side] = CLASS_COLOURS[number % len(CLASS_COLOURS)]
    mask = np.zeros((height, width), dtype=np.float32)
    mask[top : top + side, left : left + side] = 1
    return image, mask


def write_shard_set(
    root: Path,
    *,
    num_images: int = 48,
    shard_images: int = 16,
    labels: bool = True,
    first_number: int = 0,
) -> DatasetInfo:
    """Writes a complete set of pictures, each its own, with their true masks as saliency."""
    shards = []
    for first in range(0, num_images, shard_images):
        name, rows = shard_name(first // shard_images), []
        with open_shard(root, name) as writer:
            for row_number in range(first, min(first + shard_images, num_images)):
                number = first_number + row_number
                image, mask = picture(number)
                _, encoded = cv2.imencode(".jpg", image[:, :, ::-1])
                data = encoded.tobytes()
                source = f"class_{number % 3}/picture-{number}.jpg"
                row = writer.add(
                    NewSample(
                        key=sample_key(source),
                        image=data,
                        image_ext="jpg",
                        saliency=encode_saliency(mask, SALIENCY_SIZE),
                        source=source,
                        width=image.shape[1],
                        height=image.shape[0],
                        label=number % 3 if labels else None,
                        sha256=hashlib.sha256(data).hexdigest(),
                    )
                )
                rows.append(
                    {**row, "saliency_mean": 0.5, "saliency_std": 0.1, "foreground_share": 0.7}
                )
            shard = writer.finish()
        write_rejected(root, name, [])
        write_manifest(root, ShardRecord(shard=shard, plan_digest="made", num_rejected=0), rows)
        shards.append(shard)
    info = DatasetInfo(
        schema_version=SCHEMA_VERSION,
        shards=tuple(shards),
        class_names=("class_0", "class_1", "class_2") if labels else (),
        saliency={"source": "made"},
        saliency_size=SALIENCY_SIZE,
        plan_digest=f"made-{num_images}-{shard_images}-{labels}",
        num_rejected=0,
        versions={},
    )
    write_dataset_info(root, info)
    return info
