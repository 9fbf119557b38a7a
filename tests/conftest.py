"""Fixtures that many tests share: real photographs where they exist, one Ray for the session."""

import hashlib
import os

# One thread for arithmetic: the tests' processes share few cores, and the sums stay the same.
os.environ["OMP_NUM_THREADS"] = "1"

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.codecs import encode_saliency
from pipeline.manifest import (
    DatasetInfo,
    ShardRecord,
    write_dataset_info,
    write_manifest,
    write_rejected,
)
from pipeline.schema import SALIENCY_SIZE, SCHEMA_VERSION, shard_name
from pipeline.shards import NewSample, open_shard

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def golden() -> Path:
    """The folder of float64 reference values."""
    return ROOT / "tests" / "golden"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real photographs; skips where it is absent."""
    folder = Path(os.environ.get("SALMASK_SHARED", ROOT.parent / "shared")) / "data"
    if not folder.is_dir():
        pytest.skip(f"no real photographs at {folder} (set SALMASK_SHARED)")
    return folder


@pytest.fixture(scope="session")
def ray_session() -> Iterator[None]:
    """One local Ray with two CPUs for the whole session: starting it takes seconds."""
    import ray

    ray.init(
        address="local",
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=True,
        configure_logging=False,
    )
    yield
    ray.shutdown()


@pytest.fixture(scope="session")
def make_labelled_shards() -> Callable[..., DatasetInfo]:
    """Writes a small shard set of PNGs: `(root, images, labels, class_names) -> DatasetInfo`.

    Labels are indices into the class names; without class names the set has no labels.
    """
    return write_labelled_shards


def write_labelled_shards(
    root: Path,
    images: Sequence[NDArray[np.uint8]],
    labels: Sequence[int],
    class_names: Sequence[str] = (),
    shard_images: int = 16,
) -> DatasetInfo:
    flat = encode_saliency(np.zeros((8, 8), np.float32), SALIENCY_SIZE)
    shards = []
    for first in range(0, len(images), shard_images):
        name, rows = shard_name(first // shard_images), []
        with open_shard(root, name) as writer:
            for i in range(first, min(first + shard_images, len(images))):
                data = cv2.imencode(".png", images[i][..., ::-1])[1].tobytes()
                sample = NewSample(
                    key=f"{i:06d}",
                    image=data,
                    image_ext="png",
                    saliency=flat,
                    source=f"{i:06d}.png",
                    width=images[i].shape[1],
                    height=images[i].shape[0],
                    label=labels[i] if class_names else None,
                    sha256=hashlib.sha256(data).hexdigest(),
                )
                extra = {"saliency_mean": 0.0, "saliency_std": 0.0, "foreground_share": 1.0}
                rows.append(writer.add(sample) | extra)
            shards.append(writer.finish())
        write_rejected(root, name, [])
        write_manifest(
            root, ShardRecord(shard=shards[-1], plan_digest="made", num_rejected=0), rows
        )
    info = DatasetInfo(
        schema_version=SCHEMA_VERSION,
        shards=tuple(shards),
        class_names=tuple(class_names),
        saliency={"source": "uniform"},
        saliency_size=SALIENCY_SIZE,
        plan_digest=hashlib.sha256(str(shards).encode()).hexdigest(),
        num_rejected=0,
        versions={},
    )
    write_dataset_info(root, info)
    return info
