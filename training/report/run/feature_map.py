"""Features of held-out images in two dimensions: a look at what the backbone holds together.

Shapes: M images, D features.
"""

import importlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.core.errors import InputError
from pipeline.core.progress import track
from training.engine.context import LocalContext
from training.evaluate.extract import ExtractConfig
from training.evaluate.features import extract_features
from training.evaluate.labelled import LabelledImages, open_labelled
from training.evaluate.subject import load_subjects
from training.report.charts.points import class_map
from training.report.config import MapMethod, ReportConfig
from training.report.page import Block, Charts, Section, Words, missing
from training.report.run.state import RunState
from training.report.wording import count, percent

SEED = 0
NEIGHBOURS, PERPLEXITY = 15, 30.0
BATCH = 64


class Flat(NamedTuple):
    """Features in two dimensions, what the axes are, and what the map keeps."""

    places_M2: NDArray[np.float64]
    axes: tuple[str, str]
    note: str


def map_section(run: RunState, config: ReportConfig) -> Section:
    """The map, or why there is none."""
    return Section(anchor="map", title="Map of features", blocks=_blocks(run, config))


def _blocks(run: RunState, config: ReportConfig) -> list[Block]:
    if config.map_images == 0:
        return [missing("The map was left out (--map-images 0).")]
    if run.backbone is None:
        return [missing("There is no map yet: the run has not exported a backbone.")]
    recorded = dict(run.recorded.get("knn") or {}).get("val_shards")
    place = config.val or recorded
    if place is None:
        return [
            missing("There is no map: the run knows no labelled shards (name some with --val).")
        ]
    try:
        images = open_labelled(place)
        features_MD, labels_M = _features(run.folder, images, config.map_images)
    except InputError as error:
        return [missing(f"There is no map: {error}")]
    if len(features_MD) < 3:
        return [missing(f"There is no map: {place} holds fewer than 3 images.")]
    flat = flattened(features_MD.numpy().astype(np.float64), config.map)
    classes = len(images.class_names)
    alt = (
        f"Map of the features of {count(len(labels_M), 'image')} of "
        f"{count(classes, 'class', 'classes')}, coloured by class. {flat.note}"
    )
    words = Words(
        text=f"{count(len(labels_M), 'image')} of {place}, evenly over the set: features of the "
        "run's newest export, each scaled to length 1. Labels colour the map; they played no part "
        "in the training."
    )
    chart = class_map(
        "map",
        {"pca": "Principal components", "tsne": "t-SNE", "umap": "UMAP"}[config.map],
        flat.places_M2,
        labels_M.numpy(),
        images.class_names,
        axes_labels=flat.axes,
        alt=alt,
        note=flat.note,
    )
    return [words, Charts(charts=(chart,))]


def _features(folder: Path, images: LabelledImages, most: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Unit features and labels of at most so many images, evenly over the set."""
    subject = load_subjects([str(folder)], encoder="query", seed=SEED, device=LocalContext().device)
    wanted = min(most, images.num_images)
    numbers = np.unique(np.linspace(0, images.num_images - 1, wanted).round().astype(np.int64))
    settings = subject[0].info.preprocessing
    extract = ExtractConfig(
        view_size=settings.view_size, resize=settings.resize, batch_size=BATCH, skip_damaged=True
    )
    features_MD, labels_M = extract_features(
        subject[0].network,
        track(
            extract.batches(images, numbers.tolist()),
            "features of the map",
            wanted,
            "images",
            size=lambda batch: len(batch[1]),
        ),
        device=LocalContext().device,
        prepare=subject[0].prepare,
    )
    return torch.nn.functional.normalize(features_MD, dim=1), labels_M


def flattened(features_MD: NDArray[np.float64], method: MapMethod) -> Flat:
    """Features in two dimensions, the same for the same features.

    Args:
        features_MD: float64 [M, D], M >= 3.
        method: `pca`, or another whose package is installed.
    """
    if method == "pca":
        return _pca(features_MD)
    if method == "tsne":
        made = importlib.import_module("sklearn.manifold").TSNE(
            perplexity=min(PERPLEXITY, (len(features_MD) - 1) / 3), random_state=SEED, init="pca"
        )
    else:
        made = importlib.import_module("umap").UMAP(
            n_neighbors=min(NEIGHBOURS, len(features_MD) - 1), random_state=SEED, metric="cosine"
        )
    places = np.asarray(made.fit_transform(features_MD.astype(np.float32)), dtype=np.float64)
    return Flat(places, ("", ""), "Neighbours are kept; distances between groups mean little.")


def _pca(features_MD: NDArray[np.float64]) -> Flat:
    centred = features_MD - features_MD.mean(axis=0)
    left, values, _ = np.linalg.svd(centred, full_matrices=False)
    # of a direction and its opposite, the one in which the furthest point is positive
    left = left * np.sign(left[np.abs(left).argmax(axis=0), np.arange(left.shape[1])])
    variance = values**2 / max(float((values**2).sum()), 1e-12)
    shares = [percent(float(share)) for share in variance[:2]]
    return Flat(
        (left * values)[:, :2],
        (f"first component, {shares[0]}", f"second component, {shares[1]}"),
        f"The two components hold {percent(float(variance[:2].sum()))} of the variance; classes "
        "that lie over each other here may still be apart in the other dimensions.",
    )
