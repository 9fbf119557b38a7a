"""Small shard sets with pictures made on the spot, for tests that need something to read."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.images.codecs import encode_saliency
from pipeline.shardset.manifest import (
    DatasetInfo,
    ShardRecord,
    write_dataset_info,
    write_manifest,
    write_rejected,
)
from pipeline.shardset.schema import (
    SALIENCY_SIZE,
    SCHEMA_VERSION,
    shard_file,
    shard_name,
)
from pipeline.shardset.writer import ShardWriter
from pipeline.storage.storage import open_store

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
    """Writes a complete set of JPEG pictures, each its own, with their true masks as saliency."""
    numbers = range(first_number, first_number + num_images)
    images, masks = zip(*(picture(number) for number in numbers), strict=True)
    return write_images(
        root,
        images,
        [number % 3 for number in numbers],
        ("class_0", "class_1", "class_2") if labels else (),
        saliency=masks,
        shard_images=shard_images,
        ext="jpg",
        first_number=first_number,
    )


def write_images(
    root: Path,
    images: Sequence[NDArray[np.uint8]],
    labels: Sequence[int],
    class_names: Sequence[str] = (),
    *,
    saliency: Sequence[NDArray[np.float32]] | None = None,
    shard_images: int = 16,
    ext: str = "png",
    first_number: int = 0,
) -> DatasetInfo:
    """Writes a complete set of given images, RGB; flat saliency where none is given.

    Labels are indices into the class names; without class names the set has no labels.
    """
    flat = np.zeros((8, 8), np.float32)
    shards = []
    for first in range(0, len(images), shard_images):
        name, rows = shard_name(first // shard_images), []
        with open_store(root).new_file(shard_file(name)) as file:
            writer = ShardWriter(file, name)
            for i in range(first, min(first + shard_images, len(images))):
                source = f"picture-{first_number + i:06d}.{ext}"
                data = cv2.imencode(f".{ext}", images[i][..., ::-1])[1].tobytes()
                levels = encode_saliency(flat if saliency is None else saliency[i], SALIENCY_SIZE)
                height, width = images[i].shape[:2]
                about = {"source": source, "width": width, "height": height}
                about |= {"label": labels[i] if class_names else None}
                about |= {"sha256": hashlib.sha256(data).hexdigest()}
                extra = {"saliency_mean": 0.0, "saliency_std": 0.0, "foreground_share": 1.0}
                rows.append(writer.add(data, ext, levels, about) | extra)
            shard = writer.finish()
        write_rejected(root, name, [])
        write_manifest(root, ShardRecord(shard=shard, plan_digest="made", num_rejected=0), rows)
        shards.append(shard)
    info = DatasetInfo(
        schema_version=SCHEMA_VERSION,
        shards=tuple(shards),
        class_names=tuple(class_names),
        saliency={"source": "made"},
        saliency_size=SALIENCY_SIZE,
        plan_digest=hashlib.sha256(str(shards).encode()).hexdigest(),
        num_rejected=0,
        versions={},
    )
    write_dataset_info(root, info)
    return info


PNGS = b"\x89PNG"


def damage_images(root: Path, shard: int, count: int, start_of: bytes = b"\xff\xd8\xff") -> None:
    """Overwrites the beginnings of a shard's first JPEGs (or `PNGS`, its maps)."""
    path = root / shard_file(shard_name(shard))
    data = bytearray(path.read_bytes())
    start = 0
    for _ in range(count):
        start = data.index(start_of, start)
        data[start : start + 8] = bytes(8)
    path.write_bytes(data)
