"""Map the features of held-out images to two dimensions.

Shapes: M images, D features.
"""

import importlib
from html import escape

import numpy as np
import torch

from pipeline.core.errors import InputError, check
from pipeline.core.progress import track
from training.core.context import LocalContext
from training.evaluate.encoders import load_encoders
from training.evaluate.labelled import evenly_chosen, open_labelled
from training.report.config import MapMethod, ReportConfig
from training.report.figures import SERIES, Chart, Values, colour, new_figure
from training.report.state import RunState
from training.report.wording import count, percent

TITLES = {"pca": "Principal components", "tsne": "t-SNE", "umap": "UMAP"}
SHAPES = ("circle", "diamond", "square")
MOST_CLASSES = SERIES * len(SHAPES)
"""Classes that colours and shapes tell apart; the others are grey."""
SEED = 0
NEIGHBOURS, PERPLEXITY = 15, 30.0
BATCH = 64


def feature_map(run: RunState, config: ReportConfig) -> Chart:
    """Map the features of labelled images, taken evenly from their set, but for damaged ones.

    Raises `InputError` that says why there is no map.
    """
    shards = config.val or dict(run.recorded.get("knn") or {}).get("val_shards")
    check(config.map_images > 0, "it was left out (--map-images 0)")
    check(run.backbone is not None, "the run has not exported a backbone yet")
    if shards is None:
        raise InputError("the run has no labelled shards (name some with --val)")
    images = open_labelled(shards)
    numbers = evenly_chosen(images.num_images, config.map_images).tolist()
    check(len(numbers) >= 3, f"it needs at least 3 images, {shards} gives {len(numbers)}")
    (encoder,) = load_encoders(
        [str(run.folder)],
        encoder="query",
        seed=SEED,
        device=LocalContext().device,
        batch_size=BATCH,
        skip_damaged=True,
    )
    batches = encoder.batches(images, numbers)
    work = "features of the map"
    features_MD, labels_M = encoder.extract(
        track(batches, work, len(numbers), "images", size=lambda batch: len(batch[1]))
    )
    normal_MD = torch.nn.functional.normalize(features_MD.double(), dim=1).numpy()
    places_M2, note = flattened(normal_MD, config.map)
    note = f"{count(len(labels_M), 'image')} of {shards}. {note}"
    drawn = new_figure(height=520, showlegend=True)
    names, labels = [escape(name) for name in images.class_names], labels_M.numpy()
    groups = np.minimum(labels, MOST_CLASSES)
    for group in np.unique(groups):
        own, chosen = group < MOST_CLASSES, groups == group
        drawn.add_scatter(
            x=places_M2[chosen, 0],
            y=places_M2[chosen, 1],
            name=names[group] if own else "other classes",
            mode="markers",
            marker={
                "color": colour(group) if own else "var(--rule)",
                "symbol": SHAPES[group // SERIES % len(SHAPES)],
                "size": 7,
                "line": {"color": "var(--card)", "width": 0.5},
            },
            hovertext=[names[label] for label in labels[chosen]],
            hoverinfo="text",
        )
    drawn.update_layout(legend={"orientation": "v", "x": 1.01, "y": 1, "yanchor": "top"})
    drawn.update_xaxes(showticklabels=False, showline=False)
    drawn.update_yaxes(showticklabels=False, showgrid=False)
    alt = f"Map of features, coloured by class: {note}"
    return Chart(TITLES[config.map], drawn, alt, note, wide=True)


def flattened(features_MD: Values, method: MapMethod) -> tuple[Values, str]:
    """Reduce features to two dimensions, float64 [M, 2], and say what the map preserves.

    The same features have the same map. A method other than `pca` needs its package.
    """
    if method == "pca":
        left, values, _ = np.linalg.svd(features_MD - features_MD.mean(0), full_matrices=False)
        shares = values[:2] ** 2 / max(float((values**2).sum()), 1e-12)
        note = (
            f"The two components hold {percent(shares.sum())} of the variance, the first "
            f"{percent(shares[0])}; classes that overlap here may still be apart in the other "
            "dimensions."
        )
        return (left * values)[:, :2], note
    if method == "tsne":
        reducer = importlib.import_module("sklearn.manifold").TSNE(
            perplexity=min(PERPLEXITY, (len(features_MD) - 1) / 3), random_state=SEED, init="pca"
        )
    else:
        reducer = importlib.import_module("umap").UMAP(
            n_neighbors=min(NEIGHBOURS, len(features_MD) - 1), random_state=SEED, metric="cosine"
        )
    places = np.asarray(reducer.fit_transform(features_MD.astype(np.float32)), dtype=np.float64)
    return places, "Neighbours stay neighbours; distances between groups mean little."
