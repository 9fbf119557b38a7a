"""The configuration of a pretraining run, put together from the parts' own dataclasses."""

import dataclasses
import json
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from pipeline.core.errors import check
from pipeline.shardset.cache import CacheConfig
from pipeline.storage.storage import Location, is_url, open_store, without_options
from training.config.settings import (
    CheckpointConfig,
    CollapseConfig,
    HeldoutConfig,
    KnnConfig,
    OptimConfig,
    TrackConfig,
    check_least,
    check_seed,
)
from training.config.stages import AnchorConfig, ReplayConfig
from training.data.damage import OnDamaged
from training.encoders.settings import EncoderConfig
from training.methods.moco.settings import MoCoConfig
from training.methods.registry import load_settings
from training.methods.settings import MethodConfig
from training.views.settings import AugmentConfig, MaskConfig, ViewConfig, check_fill

load_settings()


@dataclass(frozen=True, kw_only=True)
class PretrainConfig:
    """A whole run. Any field can be set on the command line, nested ones with a dot.

    Attributes:
        shards: folder or bucket (s3://, gs://, az://) that jobs/precompute.py wrote.
        out: the run's folder, or s3://, gs:// or az://bucket/run: checkpoints, metrics,
            TensorBoard, exported backbone. A run that is there already goes on.
        bucket: the URL that --out was; out is its name then, and a working folder in a run.
        start_from: folder of another run, whose newest checkpoint this one starts from: both
            encoders, heads and queue; optimiser and schedule, with its warm-up, are new ones. Not
            the same as encoder.init, which is the backbone alone.
        extend: folder of another run, which is trained longer here: from its newest checkpoint,
            with its settings, optimiser and record, as if its epochs had been these from the
            start; they count those that it has done.
        epochs: passes over the images, 1 or more.
        epoch_steps: global steps that count as an epoch: a number, 1 or more; all: those of a pass
            over all images, whatever data_fraction is; none: those of a pass over the used ones.
        batch_size: images of a step, all workers together, 2 or more.
        data_fraction: share of the images that are used, in (0, 1]: of every shard as much, and a
            smaller share's images are among a larger one's.
        selection: folder that jobs/choose.py wrote for these shards: only the images that it names
            are used; none: all.
        seed: that everything random follows from, 0 or more.
        method: settings of the method that is trained.
        fill: what stands in masked patches: mean, blur or high_pass.
        precision: fp32; bf16 autocast; fp16 autocast with loss scaling, for GPUs without bf16; or
            auto: bf16 where the device has bf16 matrix units, else fp32.
        accumulate: parts, 1 or more, in which a batch goes through the encoder one after the other:
            less memory, for one more forward pass. Batch-norm groups must lie within parts.
        num_workers: training processes, 1 or more; auto: as many as fit the batch, at most one per
            GPU, or per node where there are no GPUs.
        loader_workers: loading processes of each training process, 0 or more; none: 0 on CPU, 4
            on GPU.
        decode: full: every image whole; reduced: JPEGs at a half, a quarter or an eighth of a side,
            where every crop then still has its view's pixels: faster, and pixels change by 1 to 2
            levels of 255 on average.
        log_every_steps: steps between lines of the record, 1 or more.
        max_failures: how often the workers are started again after a crash, 0 or more: on as many
            as the cluster then holds and fit the batch, never more than before the first crash.
        on_damaged: what becomes of a damaged sample: raise ends the run with its name; skip counts
            and records it, and puts the batch's next good sample in its place, without weight in
            the loss.
        on_collapse: what to do when the embeddings collapse: warn in the record and on the screen,
            or stop the run.
    """

    shards: Location
    out: Path
    bucket: Annotated[str | None, tyro.conf.Fixed, tyro.conf.Suppress] = None
    start_from: Location | None = None
    extend: Location | None = None
    epochs: int = 200
    epoch_steps: int | Literal["all"] | None = None
    batch_size: int = 256
    data_fraction: float = 1.0
    selection: Path | None = None
    seed: int = 0
    fill: str = "mean"
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    views: ViewConfig = field(default_factory=ViewConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    masks: MaskConfig = field(default_factory=MaskConfig)
    method: MethodConfig = field(default_factory=MoCoConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    replay: ReplayConfig = field(default_factory=ReplayConfig)
    anchor: AnchorConfig = field(default_factory=AnchorConfig)
    knn: KnnConfig = field(default_factory=KnnConfig)
    heldout: HeldoutConfig = field(default_factory=HeldoutConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    collapse: CollapseConfig = field(default_factory=CollapseConfig)
    cache: CacheConfig = field(default_factory=CacheConfig)
    track: TrackConfig = field(default_factory=TrackConfig)
    decode: Literal["full", "reduced"] = "full"
    on_damaged: OnDamaged = "raise"
    on_collapse: Literal["warn", "stop"] = "warn"
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    accumulate: int = 1
    num_workers: int | Literal["auto"] = "auto"
    loader_workers: int | None = None
    log_every_steps: int = 25
    max_failures: int = 3

    def __post_init__(self) -> None:
        check_seed(self.seed)
        check_least(self, epochs=1, epoch_steps=1, batch_size=2, num_workers=1, loader_workers=0)
        check_least(self, log_every_steps=1, max_failures=0, accumulate=1)
        share = self.data_fraction
        check(0.0 < share <= 1.0, f"data_fraction {share} must be in (0, 1]")
        check(
            self.selection is None or share == 1.0,
            f"selection {self.selection} and data_fraction {share}: give one of them",
        )
        check_fill(self.fill)
        strategy = self.masks.strategy
        check(
            strategy not in ("exchange", "learned") or self.fill != "high_pass",
            f"masks.strategy {strategy} replaces whole patches, but fill high_pass has masks of "
            "other shapes: choose --fill mean or blur",
        )
        check(
            strategy != "learned" or not self.encoder.stem.endswith("partial"),
            "masks.strategy learned: through encoder.stem partial, which sees no masked pixel, no "
            "gradient reaches the masks: choose another stem",
        )
        check(
            strategy != "learned" or self.precision != "fp16",
            "masks.strategy learned: the gradient of its generator is not scaled: choose another "
            "precision than fp16",
        )
        start, size = self.start_from, self.batch_size
        check(
            start is None or self.encoder.init is None,
            f"start_from {start} and encoder.init {self.encoder.init} are both given: a run starts "
            "from one of them",
        )
        check(
            not self.replay.shards or self.replay.share == 0 or 0 < self.num_replayed < size,
            f"replay.share {self.replay.share} is {self.num_replayed} images of a batch of {size}: "
            f"wanted 1 to {size - 1}",
        )

    def check_given(self, names: Collection[str]) -> None:
        """Raises ``InputError`` if one of these fields, such as method.rho, would do nothing."""
        for name, why in self.idle().items():
            check(name not in names, f"--{name.replace('_', '-')} has no effect {why}")
        head = getattr(self.method, "object_head", "off")
        check(
            "method.object_head" not in names
            or head not in ("hard", "both")
            or getattr(self.method, "hard_negatives", 1) > 0,
            f"--method.object-head {head} takes hard negatives, and --method.hard-negatives is 0: "
            "give --method.hard-negatives 1, too",
        )

    def idle(self) -> dict[str, str]:
        """Fields that have no effect beside the others, each with the reason."""
        idle = {f"method.{name}": why for name, why in self.method.idle().items()}
        if not self.views.local:
            local = ("method.local_weight", "views.local_size", "views.local_scale")
            idle |= dict.fromkeys((*local, "views.local_tries"), "without --views.local")
        if not self.replay.shards:
            idle |= dict.fromkeys(("replay.share", "replay.keep"), "without --replay.shards")
        if self.anchor.kind == "none":
            idle["anchor.strength"] = "beside --anchor.kind none"
        return idle

    @property
    def num_replayed(self) -> int:
        """Images of earlier sets in every global batch."""
        return round(self.replay.share * self.batch_size) if self.replay.shards else 0

    @property
    def place(self) -> str:
        """The run's folder, or its URL without options."""
        return str(self.out) if self.bucket is None else open_store(self.bucket).url

    def to_json(self) -> dict[str, Any]:
        """The configuration as plain JSON values, URLs without their options."""
        text = without_options(json.dumps(dataclasses.asdict(self), default=str))
        plain: dict[str, Any] = json.loads(text)
        if plain.pop("bucket") is not None:
            plain["out"] = self.place
        return plain | {"method": {"name": self.method.name, **plain["method"]}}


def with_place(config: PretrainConfig, out: Location) -> PretrainConfig:
    """The configuration of a run in this folder, or at this URL in a bucket."""
    name = open_store(out).url.rpartition("/")[2] if is_url(out) else out
    bucket = str(out) if is_url(out) else None
    return dataclasses.replace(config, out=Path(name), bucket=bucket)
