"""Pretraining from Python: runs, their backbones, and features of images."""

import importlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.api import ShardSet, located
from pipeline.backbone.image_encoder import ImageEncoder, load_image_encoder
from pipeline.sources.pictures import open_pictures
from pipeline.storage.storage import Location, fetched, is_url, open_store
from training.config.fields import dotted, with_fields
from training.config.pretrain import with_place
from training.config.recipes import find_recipe, with_method
from training.record.metrics import latest_values, read_metrics
from training.report.state import read_run
from training.select import embed as embedding


@dataclass(frozen=True)
class Run:
    """The folder of a pretraining, finished or not.

    >>> run = Run("run")
    >>> run.finished, run.values["loss"] > 0, run.record[-1]["step"]
    (True, True, 1)
    """

    folder: str | Path

    @property
    def path(self) -> Path:
        """The folder, absolute; of a bucket's, a copy of record and backbone as they are now."""
        place = located(self.folder)
        names = open_store(place).names() if is_url(place) else ()
        return fetched(place, *(name for name in names if name.count("/") < 2))

    @property
    def finished(self) -> bool:
        """Whether all steps are done; InputError where it is no run."""
        state = read_run(self.path)
        return state.step == state.total_steps

    @property
    def values(self) -> dict[str, float]:
        """The last value of every recorded number."""
        return latest_values(self.path)

    @property
    def record(self) -> list[dict[str, float | str]]:
        """The lines of metrics.jsonl, such as the loss after every few steps."""
        return read_metrics(self.path)


def pretrain(
    shards: Location | ShardSet,
    out: str | Path,
    *,
    recipe: str = "simclr_small",
    ray: bool = False,
    **options: Any,  # noqa: ANN401
) -> Run:
    """Pretrain, or go on with the run that is in `out`; that of `salmask pretrain`.

    >>> run = pretrain("shards", "run", recipe="debug", epochs=1, batch_size=6,
    ...                method={"batch_norm_group": 3}, knn={"every_epochs": 1})
    >>> run.finished
    True

    Args:
        shards: a shard set.
        out: the run's folder, or its URL in a bucket.
        recipe: what the settings start from (training/README.md).
        ray: on Ray: several workers, started again after crashes; otherwise in this process.
        options: fields of `PretrainConfig`, those of its parts in dictionaries. `method` may be a
            method's name.

    Raises:
        InputError: something does not fit; nothing is written then.
    """
    config = with_place(find_recipe(recipe)(_place(shards), Path()), located(out))
    if isinstance(options.get("method"), str):
        config = with_method(recipe, config, options.pop("method"))
    given = dotted(options)
    config = with_fields(config, given)
    config.check_given(given)
    paths = {n: one for n, one in dotted(asdict(config)).items() if isinstance(one, Path)}
    config = with_fields(config, {name: located(path) for name, path in paths.items()})
    launcher = importlib.import_module("training.ray.launch" if ray else "training.engine.local")
    launcher.launch(config)
    return Run(config.bucket or config.out)


def load_backbone(run: str | Path | Run) -> ImageEncoder:
    """The backbone of a run, a checkpoint or an export, behind its preprocessing.

    A module of uint8 RGB images of any size, [B, 3, H, W] or [3, H, W], to features, float32
    [B, D], in evaluation mode on the CPU; `network` is the network alone. InputError: there is no
    backbone.

    >>> import torch
    >>> backbone = load_backbone("run")
    >>> backbone(torch.zeros(2, 3, 48, 64, dtype=torch.uint8)).shape
    torch.Size([2, 512])
    """
    return load_image_encoder(_run_place(run))


def embed(
    run: str | Path | Run, images: Location | ShardSet
) -> tuple[NDArray[np.float32], list[str]]:
    """Features of images by that backbone, and their names; those of `salmask embed`.

    >>> vectors, names = embed("run", "pictures")
    >>> vectors.shape, names[0]
    ((6, 512), 'class_0/picture 0.jpg')

    Args:
        run: a run, a checkpoint or an export.
        images: a shard set, or whatever shards are made of (`precompute`).

    Returns:
        float32 [M, D], not normalised, and M names. Source images that cannot be decoded are left
        out, with a warning.

    Raises:
        InputError: there are no images, or no backbone.
    """
    encoder = embedding.open_encoder(str(_run_place(run)))
    pictures = open_pictures(_place(images), encoder.info.pixels)
    features_MD, names, _ = embedding.embed(encoder, pictures)
    return features_MD.numpy(), names


def _run_place(run: str | Path | Run) -> Location:
    return located(run.folder if isinstance(run, Run) else run)


def _place(images: Location | ShardSet) -> Location:
    return images.place if isinstance(images, ShardSet) else located(images)
