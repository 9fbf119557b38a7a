"""Settings of the parts of a run: optimiser, checkpoints, checks and records. Imports no torch."""

from dataclasses import dataclass
from typing import Literal

from pipeline.core.errors import check
from pipeline.storage.storage import Location

OPTIMISERS = ("sgd", "lars", "adamw")


MOST_SEED = (1 << 63) - 1


def check_seed(seed: int) -> None:
    """Raise ``InputError`` unless generators take a seed."""
    check(0 <= seed <= MOST_SEED, f"seed {seed} must be from 0 to {MOST_SEED}")


def check_least(settings: object, prefix: str = "", **limits: int) -> None:
    """Raise ``InputError`` unless fields of settings are at least their limits, or no numbers."""
    for name, limit in limits.items():
        value = getattr(settings, name)
        fits = not isinstance(value, int | float) or value >= limit
        check(fits, f"{prefix}{name} {value} must be {limit} or more")


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """Optimiser with a cosine schedule; the defaults are the paper's for MoCo v2.

    Attributes:
        name: sgd; lars for large batches (SimCLR); or adamw.
        lr: learning rate after the warm-up, above 0; it falls to 0 along a cosine.
        momentum: of SGD and LARS, in [0, 1).
        weight_decay: 0 or more; on every parameter with SGD, on all but biases and batch norm with
            the others.
        warmup_epochs: epochs over which the rate rises linearly from 0, 0 or more.
        trust_coefficient: of LARS, above 0.
        lars_clip: of LARS: no tensor's own rate is above lr.
    """

    name: Literal["sgd", "lars", "adamw"] = "sgd"
    lr: float = 0.03
    momentum: float = 0.9
    weight_decay: float = 1e-4
    warmup_epochs: float = 0.0
    trust_coefficient: float = 0.001
    lars_clip: bool = False

    def __post_init__(self) -> None:
        known = ", ".join(OPTIMISERS)
        check(self.name in OPTIMISERS, f"unknown optimiser {self.name!r}: choose from {known}")
        for name in ("lr", "trust_coefficient"):
            value = getattr(self, name)
            check(value > 0, f"optim.{name} {value} must be above 0")
        check(0 <= self.momentum < 1, f"optim.momentum {self.momentum} must be in [0, 1)")
        check_least(self, "optim.", weight_decay=0, warmup_epochs=0)


@dataclass(frozen=True, kw_only=True)
class CheckpointConfig:
    """When checkpoints are written, besides at the end and when a stop is asked for.

    Attributes:
        every_epochs: epochs between checkpoints, 0 or more; 0: never.
        every_steps: steps between them, 0 or more; 0: never.
        every_minutes: minutes between them, 0 or more; 0: never.
        keep: how many of the newest are kept, 1 or more.
    """

    every_epochs: int = 1
    every_steps: int = 0
    every_minutes: float = 0.0
    keep: int = 2

    def __post_init__(self) -> None:
        check_least(self, "checkpoint.", every_epochs=0, every_steps=0, every_minutes=0, keep=1)


@dataclass(frozen=True, kw_only=True)
class CollapseConfig:
    """When a run counts as collapsed.

    Attributes:
        min_spread: least spread of the embeddings, in [0, 1): 1 is all over the sphere, 0 is one
            point.
        after_steps: steps before the spread counts, 0 or more; an untrained network has little.
        knn_margin: percentage points, 0 or more, that the kNN accuracy may be below the untrained
            network's at two evaluations running, beside two standard errors of the difference
            (few validation images say little: 18 points for 60 of them at 40 %).
    """

    min_spread: float = 0.1
    after_steps: int = 200
    knn_margin: float = 3.0

    def __post_init__(self) -> None:
        check(0 <= self.min_spread < 1, f"collapse.min_spread {self.min_spread} must be in [0, 1)")
        check_least(self, "collapse.", after_steps=0, knn_margin=0)


@dataclass(frozen=True, kw_only=True)
class TrackConfig:
    """Where else a run is recorded.

    Attributes:
        mlflow: tracking URI, sqlite:////absolute/path/mlflow.db or http://host:5000 (extra
            mlflow); none: not there. User and password in it are left out of config.json and the
            screen: give them again, or in MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD.
        wandb: project of Weights & Biases (extra wandb); with WANDB_MODE=offline nothing leaves
            the machine; none: not there.
        name: of the run there; none: that of its folder.
    """

    mlflow: str | None = None
    wandb: str | None = None
    name: str | None = None


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
        check_least(self, "knn.", every_epochs=1, k=1)
        check(self.temperature > 0, f"knn.temperature {self.temperature} must be above 0")


@dataclass(frozen=True, kw_only=True)
class HeldoutConfig:
    """The contrastive loss on images that are not trained on, measured with the kNN check.

    Its negatives are the same views of the same images in every run and at every time, embedded by
    the network as it is, so that figures of several runs can be compared.

    Attributes:
        shards: other images than the pretraining's, labelled or not; None: it is not measured.
        bank_size: images of the bank, 1 or more; at most half of the shards' images.
        temperature: of the loss, above 0, whatever that of the training is.
        seen: measure as many of the images that are trained on as well, against the same bank.
    """

    shards: Location | None = None
    bank_size: int = 1024
    temperature: float = 0.1
    seen: bool = False

    def __post_init__(self) -> None:
        check_least(self, "heldout.", bank_size=1)
        check(self.temperature > 0, f"heldout.temperature {self.temperature} must be above 0")
