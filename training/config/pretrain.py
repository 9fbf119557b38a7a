"""The configuration of a pretraining run, put together from the parts' own dataclasses."""

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

from pipeline.core.errors import InputError
from pipeline.shardset.cache import CacheConfig
from pipeline.storage.atomic import write_atomically
from pipeline.storage.storage import Location
from training.config.heldout import HeldoutConfig
from training.core.checkpoint import CheckpointConfig
from training.data.damage import OnDamaged
from training.data.stream import StreamConfig
from training.encoders.encoder import EncoderConfig
from training.engine.optim import OptimConfig
from training.methods.interface import MethodConfig
from training.methods.moco import MoCoConfig
from training.randomness.draws import View
from training.record.collapse import CollapseConfig
from training.record.trackers import TrackConfig
from training.views.colours import AugmentConfig
from training.views.crops import ViewConfig
from training.views.fills import fill_named
from training.views.mask_config import MaskConfig

CONFIG_FILE = "config.json"


@dataclass(frozen=True, kw_only=True)
class KnnConfig:
    """The weighted k-nearest-neighbour check during pretraining.

    Attributes:
        val_shards: labelled shards that are classified; None: no check.
        train_shards: labelled shards whose images vote; None: the shards of the pretraining.
        every_epochs: epochs between checks, 1 or more; also before the first epoch and after the
            last.
        k: neighbours that vote, 1 or more.
        temperature: of the votes' weights, exp(cosine / temperature), above 0.
    """

    val_shards: Location | None = None
    train_shards: Location | None = None
    every_epochs: int = 5
    k: int = 20
    temperature: float = 0.07

    def __post_init__(self) -> None:
        if self.every_epochs < 1 or self.k < 1 or self.temperature <= 0:
            raise InputError("knn.every_epochs and knn.k must be 1 or more, temperature above 0")


@dataclass(frozen=True, kw_only=True)
class PretrainConfig:
    """A whole run. Any field can be set on the command line, nested ones with a dot.

    Attributes:
        shards: folder, s3:// or gs:// prefix that jobs/precompute.py wrote.
        out: the run's folder: checkpoints, metrics, TensorBoard, exported backbone. A run that is
            there already goes on.
        epochs: passes over the images, 1 or more.
        batch_size: images of a step, all workers together, 2 or more.
        data_fraction: share of the images that are used, in (0, 1]: of every shard as much, and a
            smaller share's images are among a larger one's.
        seed: that everything random follows from, 0 or more.
        method: settings of the method that is trained.
        fill: what stands in masked patches: mean, blur or high_pass.
        precision: fp32; bf16 autocast; or auto: bf16 where the device has bf16 matrix units.
        num_workers: training processes, 1 or more; auto: as many as fit the batch, at most one per
            GPU, or per node where there are no GPUs.
        loader_workers: loading processes of each training process, 0 or more; none: 0 on CPU, 4
            on GPU.
        log_every_steps: steps between lines of the record, 1 or more.
        max_failures: how often the workers are started again after a crash, 0 or more: on as many
            as the cluster then holds and fit the batch, never more than before the first crash.
        on_damaged: what becomes of a damaged sample: raise ends the run with its name; skip counts
            and records it, and puts the batch's next good sample in its place, without weight in
            the loss.
        on_collapse: what to do when the embeddings collapse: warn in the record and on the screen,
            or stop the run.
    """

    groups: ClassVar[Mapping[str, tuple[str, tuple[str, ...]]]] = {
        "data": (
            "What is trained on, and where everything goes.",
            ("shards", "out", "data_fraction", "on_damaged"),
        ),
        "training": (
            "What is trained, how long and how; the parts' own settings follow below.",
            ("fill", "epochs", "batch_size", "seed", "precision", "on_collapse"),
        ),
        "process": (
            "What it runs on, and how often it tells.",
            ("num_workers", "loader_workers", "max_failures", "log_every_steps"),
        ),
    }

    shards: Location
    out: Path
    epochs: int = 200
    batch_size: int = 256
    data_fraction: float = 1.0
    seed: int = 0
    fill: str = "mean"
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    views: ViewConfig = field(default_factory=ViewConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    masks: MaskConfig = field(default_factory=MaskConfig)
    method: MethodConfig = field(default_factory=MoCoConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    knn: KnnConfig = field(default_factory=KnnConfig)
    heldout: HeldoutConfig = field(default_factory=HeldoutConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    collapse: CollapseConfig = field(default_factory=CollapseConfig)
    cache: CacheConfig = field(default_factory=CacheConfig)
    track: TrackConfig = field(default_factory=TrackConfig)
    on_damaged: OnDamaged = "raise"
    on_collapse: Literal["warn", "stop"] = "warn"
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    num_workers: int | Literal["auto"] = "auto"
    loader_workers: int | None = None
    log_every_steps: int = 25
    max_failures: int = 3

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.batch_size < 2:
            raise InputError(
                f"epochs {self.epochs} must be 1 or more and batch_size {self.batch_size} 2 or more"
            )
        if self.seed < 0:
            raise InputError(f"seed {self.seed} must be 0 or more")
        if not 0.0 < self.data_fraction <= 1.0:
            raise InputError(f"data_fraction {self.data_fraction} must be in (0, 1]")
        fill_named(self.fill)  # an unknown name is refused here already
        if self.masks.strategy == "exchange" and fill_named(self.fill).high_pass:
            raise InputError(
                "masks.strategy exchange replaces whole patches, but fill high_pass has masks of "
                "other shapes: choose --fill mean or blur"
            )
        if self.num_workers != "auto" and self.num_workers < 1:
            raise InputError(f"num_workers {self.num_workers} must be 1 or more")
        if self.loader_workers is not None and self.loader_workers < 0:
            raise InputError(f"loader_workers {self.loader_workers} must not be negative")
        if self.log_every_steps < 1 or self.max_failures < 0:
            raise InputError("log_every_steps must be 1 or more, max_failures 0 or more")

    @property
    def stream(self) -> StreamConfig:
        """The part that decides the batches."""
        return StreamConfig(
            seed=self.seed,
            batch_size=self.batch_size,
            views=self.views,
            augment=self.augment,
            masks=self.masks,
            on_damaged=self.on_damaged,
            data_fraction=self.data_fraction,
            exchange=self.masks.strategy == "exchange" or self.method.exchange is not None,
            # The contact sheet shows a hard negative even where the method has none.
            negatives=self.method.negative_views or (View.NEGATIVE,),
        )

    def to_json(self) -> dict[str, Any]:
        """The configuration as plain JSON values."""
        plain: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(self), default=str))
        return plain | {"method": {"name": self.method.name, **plain["method"]}}


MAY_DIFFER_ON_RESUME = (
    "shards",  # the data's digest is compared instead of its place
    "out",
    "num_workers",
    "loader_workers",
    "log_every_steps",
    "max_failures",
    "checkpoint.",
    "knn.",
    "heldout.",
    "collapse.",
    "cache.",
    "track.",
    "on_collapse",
    "on_damaged",
)


def differences(old: dict[str, Any], new: dict[str, Any], prefix: str = "") -> list[str]:
    """Names the fields in which two configurations would give different weights.

    Returns:
        Lines ``name: old -> new``.
    """
    lines: list[str] = []
    for key in sorted(old.keys() | new.keys()):
        name = prefix + key
        if name.startswith(MAY_DIFFER_ON_RESUME):
            continue
        before, after = old.get(key), new.get(key)
        if isinstance(before, dict) and isinstance(after, dict):
            lines += differences(before, after, name + ".")
        elif before != after:
            lines.append(f"{name}: {before} -> {after}")
    return lines


def write_config(out: Path, config: PretrainConfig, data_digest: str) -> None:
    """Writes ``config.json`` into the run's folder, which it makes."""
    record = {"data_digest": data_digest, **config.to_json()}
    write_atomically(out / CONFIG_FILE, json.dumps(record, indent=2).encode() + b"\n")


def check_run_folder(out: Path, config: PretrainConfig, data_digest: str) -> None:
    """Raises ``InputError`` when ``out`` holds something else than this very run."""
    path = out / CONFIG_FILE
    if not path.exists():
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise InputError(f"{out} exists and is no run of this job: choose another --out")
        return
    recorded = json.loads(path.read_text())
    if not isinstance(recorded.get("method"), dict):
        raise InputError(
            f"{out} holds a run of an earlier version, whose settings had other names. It cannot "
            "be resumed: choose another --out"
        )
    lines = differences(recorded, {"data_digest": data_digest, **config.to_json()})
    if lines:
        raise InputError(
            f"{out} holds a run with other settings ({'; '.join(lines)}): "
            "start it with the same ones to resume it, or choose another --out"
        )
