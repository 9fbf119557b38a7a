"""What precompute is measured against: a pool of processes that decodes, maps and writes tars.

No store, no plan, no manifest, no temporary names, no process that may die: only the work itself,
with the project's own decoder, saliency source and tar writer.
"""

from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from pipeline.images.codecs import decode_source, encode_saliency
from pipeline.saliency.interface import SaliencySource, batch_images_of
from pipeline.shardset.schema import SALIENCY_SIZE
from pipeline.shardset.writer import NewSample, ShardWriter


@dataclass(frozen=True)
class Tar:
    """A tar to write: its path, where its images lie, their sources and labels."""

    path: Path
    data: Path
    images: tuple[tuple[str, int], ...]
    saliency: SaliencySource


def write_tar(tar: Tar) -> int:
    """Write it; returns how many images are in it."""
    with tar.path.open("wb") as file:
        writer = ShardWriter(file, tar.path.stem)
        size = batch_images_of(tar.saliency)
        for start in range(0, len(tar.images), size):
            batch = tar.images[start : start + size]
            read = [(tar.data / source).read_bytes() for source, _ in batch]
            decoded = [decode_source(data) for data in read]
            maps = tar.saliency([one.pixels for one in decoded])
            for (source, label), data, one, saliency in zip(
                batch, read, decoded, maps, strict=True
            ):
                height, width = one.pixels.shape[:2]
                writer.add(
                    NewSample(
                        image=one.stored_bytes,
                        image_ext=one.ext,
                        saliency=encode_saliency(saliency, SALIENCY_SIZE),
                        source=source,
                        width=width,
                        height=height,
                        label=label,
                        sha256=sha256(data).hexdigest(),
                    )
                )
        writer.finish()
    return len(tar.images)


def only_decode(tar: Tar) -> int:
    """Read and decode its images, and nothing else."""
    for source, _ in tar.images:
        decode_source((tar.data / source).read_bytes())
    return len(tar.images)
