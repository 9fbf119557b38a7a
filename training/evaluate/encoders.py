"""What is evaluated: frozen encoders by name, and untrained ones as a baseline.

An untrained baseline is several random networks with calibrated batch norm. With its initial
statistics (mean 0, variance 1) batch norm is the identity. The features of such a network classify
better than those of the same network once batch norm normalises, so a baseline needs statistics of
real images.
"""

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import fmean, stdev
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from pipeline.backbone.folder import weights_digest
from pipeline.backbone.info import BackboneInfo
from pipeline.core.architectures import NoInitialWeights, plain_network
from pipeline.core.errors import check
from pipeline.images.pixel_format import IMAGENET_MEAN, IMAGENET_STD, RGB
from pipeline.images.preprocessing import Preprocess
from pipeline.storage.storage import without_options
from training.encoders.encoder import load_initial
from training.encoders.export import EncoderName, load_encoder, untrained_like
from training.evaluate.features import FeatureExtractor, evaluation_mode
from training.evaluate.intervals import t_quantile
from training.evaluate.labelled import LabelledImages, hashed_subset
from training.evaluate.results import Result

UNTRAINED = "untrained"
"""The name of random weights: the network and the preprocessing of the first other checkpoint."""
NUM_UNTRAINED = 3
"""Random networks that an untrained one stands for: single ones differ by several points."""
NUM_IMAGES, LARGEST_BATCH = 512, 128
"""Images that batch norm is calibrated on, and those of a batch."""
SUPERVISED = "torchvision"
"""First part of the names of published weights (`torchvision`, `torchvision:NAME`)."""
STATE_DICT = ".pth"
"""Suffix of local files of weights named as torchvision names them."""


@dataclass(frozen=True, kw_only=True)
class NamedEncoder(FeatureExtractor):
    """A frozen encoder on a device: the network is plain and in evaluation mode.

    Attributes:
        name: as it was given.
        kind: query or momentum; of random weights: untrained; of others: supervised.
        info: architecture, preprocessing, provenance.
        digest: of the weights.
        twins: of an untrained one: the same with the random weights of the next seeds.
    """

    name: str
    kind: str
    info: BackboneInfo
    digest: str
    twins: tuple["NamedEncoder", ...] = ()

    def result(self, train: Any, val: Any, **fields: Any) -> Result:  # noqa: ANN401
        """A figure; the sets are those of labelled images, or of images with boxes."""
        given: dict[str, Any] = {
            "checkpoint": without_options(self.name),
            "encoder": self.kind,
            "architecture": self.info.architecture,
            "checkpoint_digest": self.digest,
            "train": str(train.root),
            "val": str(val.root),
            "train_digest": train.digest,
            "val_digest": val.digest,
            "num_train": train.num_images,
            "num_val": val.num_images,
        }
        return Result(**(given | fields))


def load_encoders(
    names: Sequence[str],
    *,
    encoder: EncoderName,
    seed: int,
    device: torch.device,
    **settings: Any,  # noqa: ANN401
) -> list[NamedEncoder]:
    """Load what is compared.

    Names are paths of runs, checkpoints and exports, or weights for the first other one's network:
    `UNTRAINED` (from the seed), `torchvision`, `torchvision:NAME` or a `.pth` file. The settings
    are those of `FeatureExtractor`.

    Raises:
        InputError: none, one that cannot be loaded, one twice, or nothing but weights.
    """
    double = next((name for name in names if list(names).count(name) > 1), None)
    check(double is None, f"{double} is named twice: a table has one row for each checkpoint")
    model = next((name for name in names if is_path(name) and not name.endswith(STATE_DICT)), "")
    check(
        model != "",
        f"--checkpoint {names[0] if names else UNTRAINED} takes the network from another "
        "checkpoint, a run or an exported backbone: name one as well",
    )
    given = {"num_threads": min(8, os.cpu_count() or 1), "device": device} | settings
    return [_load(name, model, encoder, seed, given) for name in names]


def is_path(name: str) -> bool:
    """Whether a checkpoint's name is a path."""
    return name != UNTRAINED and name.partition(":")[0] != SUPERVISED


def _load(
    name: str, model: str, wanted: EncoderName, seed: int, settings: dict[str, Any]
) -> NamedEncoder:
    def encoder(kind: str, network: nn.Module, info: BackboneInfo, digest: str) -> NamedEncoder:
        device, seen = settings["device"], info.preprocessing
        return NamedEncoder(
            name=name,
            kind=kind,
            info=info,
            digest=digest,
            network=network.to(device),
            prepare=Preprocess(seen).to(device).prepare,
            view_size=seen.view_size,
            resize=seen.resize,
            **settings,
        )

    if name == UNTRAINED:
        trained, info = load_encoder(model)
        first, *twins = (
            encoder(UNTRAINED, untrained_like(trained, info, seed=s), info, f"random:{s}")
            for s in range(seed, seed + NUM_UNTRAINED)
        )
        return replace(first, twins=tuple(twins))
    if is_path(name) and not name.endswith(STATE_DICT):
        network, info = load_encoder(name, wanted)
        return encoder(wanted, network, info, info.weights_sha256)
    # Published weights in the model's network, normalised as torchvision does.
    like = load_encoder(model)[1]
    with NoInitialWeights():
        network, _ = plain_network(
            like.architecture, max_pool=like.max_pool, channels=like.pixels.channels
        )
    load_initial(network, name, like.architecture, max_pool=like.max_pool)
    seen = replace(like.preprocessing, high_pass=None)
    if like.pixels.channels == RGB:
        seen = replace(seen, mean=IMAGENET_MEAN, std=IMAGENET_STD)
    info = replace(
        like,
        preprocessing=seen,
        channels={},
        provenance={"init": name},
        weights_sha256=weights_digest(network.state_dict()),
    )
    return encoder("supervised", network.eval(), info, info.weights_sha256)


def calibrate(
    extractor: FeatureExtractor, images: LabelledImages, num_images: int = NUM_IMAGES
) -> None:
    """Set the running statistics of every batch norm to the mean over batches of images.

    The batches are test-time views of up to `num_images` (`hashed_subset`), about 128 at once.
    Batch norm is in training mode, all else in evaluation mode; nothing random is drawn. Changes
    the network in place; one without batch norm stays as it is.
    """
    norms = [module for module in extractor.network.modules() if isinstance(module, _BatchNorm)]
    if not norms:
        return
    numbers = hashed_subset(images.shard_sizes, num_images)
    # Batches of nearly one size: every image counts the same, and none stands alone.
    num_batches = -(-len(numbers) // LARGEST_BATCH)
    in_equal_parts = replace(extractor, batch_size=-(-len(numbers) // num_batches))
    settings = [(norm, norm.momentum, getattr(norm, "group_size", None)) for norm in norms]
    with evaluation_mode(extractor.network), torch.no_grad():
        try:
            for norm in norms:
                norm.reset_running_stats()
                norm.momentum = None  # a cumulative average
                norm.train()
            for views, _ in in_equal_parts.batches(images, numbers.tolist()):
                for norm, _, group_size in settings:
                    if group_size is not None:  # one group, the whole batch
                        norm.group_size = len(views)  # type: ignore[assignment]
                extractor(views)
        finally:
            for norm, momentum, group_size in settings:
                norm.momentum = momentum
                if group_size is not None:
                    norm.group_size = group_size


def over_seeds(by_seed: Sequence[list[Result]]) -> list[Result]:
    """The mean of each figure over random networks; the results of a trained one as they are.

    Its interval adds two uncertainties as independent ones: the images' (the mean half width of
    the networks' intervals, which all are of the same images) and the seeds' (t s / sqrt(n), of the
    standard deviation s over n seeds).
    """
    if by_seed[0][0].encoder != UNTRAINED:
        return by_seed[0]
    return [_mean(same) for same in zip(*by_seed, strict=True)]


def _mean(results: Sequence[Result]) -> Result:
    first, figures = results[0], [result.figure for result in results]
    seeds = [result.checkpoint_digest.partition(":")[2] for result in results]
    more = {name: fmean(result.more[name] for result in results) for name in first.more}
    settings = {"untrained_seeds": len(results), "batch_norm": f"calibrated on {NUM_IMAGES} images"}
    interval, given = first.interval, [result.interval for result in results if result.interval]
    if len(results) > 1:
        more |= {f"seed {seed}": figure for seed, figure in zip(seeds, figures, strict=True)}
        interval = _interval(figures, given) if len(given) == len(results) else None
        if interval is not None and first.name == "top1":  # a share has bounds
            interval = max(0.0, interval[0]), min(100.0, interval[1])
    return replace(
        first,
        checkpoint_digest=f"random:{','.join(seeds)}",
        figure=fmean(figures),
        interval=interval,
        settings=first.settings | settings,
        more=more,
    )


def _interval(figures: list[float], given: list[tuple[float, float]]) -> tuple[float, float]:
    num, middle = len(figures), fmean(figures)
    of_seeds = t_quantile(num - 1) * stdev(figures) / math.sqrt(num)
    low, high = (fmean(ends) for ends in zip(*given, strict=True))
    return middle - math.hypot(middle - low, of_seeds), middle + math.hypot(high - middle, of_seeds)
