"""The recipe `auto`: settings that follow from the images and the device, each with its reason."""

import importlib
import importlib.util
import os
from dataclasses import dataclass
from statistics import median
from typing import Any

from pipeline.core.cores import own_cores
from pipeline.shardset.manifest import load_dataset_info, read_manifest
from pipeline.storage.storage import Location
from training.config.fields import dotted
from training.config.pretrain import PretrainConfig

Chosen = dict[str, tuple[Any, str]]
"""By dotted name of a field: its value, and why; those without a reason follow from others."""
LOOKED_AT = 8
"""Shards whose images are measured."""
VIEWS = ((224, 7), (128, 8), (96, 8), (64, 8), (48, 6), (32, 4))
"""Sides of views, and of their grids of patches."""
SMALL_VIEW = 64
"""Largest side of views of a ResNet on a CPU, and with a small stem."""
TINY, TINY_VIEW, TINY_STEPS = "timm:test_resnet", 48, 5000
"""What a CPU trains: 0.4 million parameters, which learn far more in as much time (RESULTS.md)."""
LARGE_SET = 50_000
"""Images from which a GPU trains a ResNet-50."""
MOST_BATCH = {"cpu": 64, "mps": 64, "cuda": 256}
STEPS = {"cpu": 2000, "mps": 5000, "cuda": 20_000}
LEAST_EPOCHS = {"cpu": 2, "mps": 2, "cuda": 20}
MOST_EPOCHS = 400
MIB_AT_224 = {"resnet18": 28, "resnet50": 100}
"""An estimate of what a view of 224 px keeps for the way back, in float32; not measured."""
GRADIENTS = 3
"""Views of an image that take gradients: query, its copy on another background, and key."""


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What the choice goes by.

    Attributes:
        num_images: of the shards.
        side: median of the images' shorter sides in pixels.
        device: cpu, mps or cuda.
        num_gpus: of this machine; 0 without CUDA.
        gpu_mib: memory of one of them.
        cores: of this machine that may be used.
        on_cluster: whether RAY_ADDRESS names a cluster, which may have other devices.
        has_timm: whether timm is installed.
    """

    num_images: int
    side: int
    device: str = "cpu"
    num_gpus: int = 0
    gpu_mib: float = 0
    cores: int = 1
    on_cluster: bool = False
    has_timm: bool = True


def look(shards: Location) -> Seen:
    """Looks at the shards' manifests and at this machine, for which it imports torch.

    Raises:
        SetError: shards that cannot be read.
    """
    info = load_dataset_info(shards)
    torch = importlib.import_module("torch")
    few = info.shards[:: max(1, len(info.shards) // LOOKED_AT)]
    tables = [read_manifest(shards, shard.name, ["width", "height"]) for shard in few]
    sides = [min(row.values()) for table in tables for row in table.to_pylist()]
    count = torch.cuda.device_count()
    memory = torch.cuda.get_device_properties(0).total_memory / 2**20 if count else 0
    mps = "mps" if torch.backends.mps.is_available() else "cpu"
    return Seen(
        num_images=info.num_images,
        side=int(median(sides or [0])),
        device="cuda" if count else mps,
        num_gpus=count,
        gpu_mib=memory,
        cores=len(own_cores()),
        on_cluster=bool(os.environ.get("RAY_ADDRESS")),
        has_timm=importlib.util.find_spec("timm") is not None,
    )


def choose(seen: Seen) -> Chosen:
    """The values that differ from those of `simclr_small`, and why."""
    images, device = seen.num_images, seen.device
    on_cpu = device == "cpu" and not seen.on_cluster
    tiny = on_cpu and seen.has_timm
    most = TINY_VIEW if tiny else SMALL_VIEW if device == "cpu" else VIEWS[0][0]
    size, grid = next((view for view in VIEWS if view[0] <= min(seen.side, most)), VIEWS[-1])
    large = device == "cuda" and images >= LARGE_SET and size > SMALL_VIEW
    network = TINY if tiny else "resnet50" if large else "resnet18"
    why = f"{images:,} images on {device}"
    if tiny:
        why += ": a ResNet-18 (--encoder.architecture resnet18 --encoder.stem small) takes hours"
    elif on_cpu:
        why += "; with timm installed a smaller one, which learns far more in as much time"
    elif not large:
        why += f", and a ResNet-50 is for {LARGE_SET:,} images or more on a GPU"
    each = MIB_AT_224.get(network, 0) * (size / 224) ** 2 * GRADIENTS
    fitting = 0.7 * seen.gpu_mib * seen.num_gpus / each if seen.num_gpus else MOST_BATCH[device]
    batch = _power_of_two(min(MOST_BATCH[device], images // 3, fitting))
    steps_per_epoch = max(1, images // batch)
    wanted = -(-(TINY_STEPS if tiny else STEPS[device]) // steps_per_epoch)
    epochs = min(MOST_EPOCHS, max(LEAST_EPOCHS[device], wanted))
    group = min(32, batch // 2)
    ranks = range(1, max(1, seen.num_gpus) + 1)
    workers: int | str = max(n for n in ranks if batch % (n * group) == 0)
    where = "no GPU here" if not seen.num_gpus else f"{seen.num_gpus} GPUs here"
    loaders = min(8, max(2, seen.cores // max(1, seen.num_gpus) - 1)) if device != "cpu" else 0
    if seen.on_cluster:
        workers, where = "auto", "one for each GPU of the cluster"
    return {
        "encoder.architecture": (network, why),
        "encoder.stem": ("small" if size <= SMALL_VIEW and not tiny else "standard", ""),
        "views.size": (size, f"the images' shorter sides have {seen.side} px, on {device}"),
        "views.grid": (grid, ""),
        "batch_size": (
            batch,
            f"at most {MOST_BATCH[device]} on {device}, and a third of {images:,}",
        ),
        "method.batch_norm_group": (group, ""),
        "optim.lr": (0.03 * batch / 64, ""),
        "epochs": (epochs, f"{epochs * steps_per_epoch:,} steps, {steps_per_epoch:,} an epoch"),
        "optim.warmup_epochs": (max(1, epochs // 20), ""),
        "method.rho_warmup_epochs": (max(1, epochs // 4), ""),
        "knn.every_epochs": (max(1, epochs // 4), ""),
        "checkpoint.every_epochs": (max(1, epochs // 20), ""),
        "num_workers": (workers, where),
        "loader_workers": (loaders, ""),
    }


def _power_of_two(most: float) -> int:
    """The largest one that is no more, and 8 or more."""
    return int(max(8, 2 ** (int(most).bit_length() - 1) if most >= 1 else 0))


def reasons(chosen: Chosen, config: PretrainConfig) -> list[str]:
    """A line for each choice that a configuration has kept."""
    values = dotted(config.to_json())
    return [
        f"auto: {name} {value}: {why}"
        for name, (value, why) in chosen.items()
        if why and values[name] == value
    ]
