"""Map the features of held-out images to two dimensions.

Shapes: M images, D features.
"""

import importlib
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import plotly.graph_objects as go
import torch
from numpy.typing import NDArray

from pipeline.core.errors import InputError
from pipeline.core.progress import track
from training.core.context import LocalContext
from training.evaluate.extract import ExtractConfig
from training.evaluate.features import extract_features
from training.evaluate.labelled import LabelledImages, open_labelled
from training.evaluate.subject import load_subjects
from training.report.config import MapMethod, ReportConfig
from training.report.figures import SERIES, Chart, colour, new_figure
from training.report.run.state import RunState
from training.report.wording import count, percent

TITLES = {"pca": "Principal components", "tsne": "t-SNE", "umap": "UMAP"}
SHAPES = ("circle", "diamond", "square")
MOST_CLASSES = SERIES * len(SHAPES)
"""Classes that colours and shapes tell apart; the others are grey."""
SEED = 0
NEIGHBOURS, PERPLEXITY = 15, 30.0
BATCH = 64


class Flat(NamedTuple):
    """Features in two dimensions, the names of the axes, and what the map preserves."""

    places_M2: NDArray[np.float64]
    axes: tuple[str, str]
    note: str


def feature_map(run: RunState, config: ReportConfig) -> dict[str, Any]:
    """Draw the map for `run.html`, or say why there is none (`problem`)."""
    recorded = dict(run.recorded.get("knn") or {}).get("val_shards")
    shards = config.val or recorded
    if config.map_images == 0:
        return {"problem": "The map was left out (--map-images 0)."}
    if run.backbone is None:
        return {"problem": "There is no map yet: the run has not exported a backbone."}
    if shards is None:
        return {
            "problem": "There is no map: the run has no labelled shards (name some with --val)."
        }
    try:
        images = open_labelled(shards)
        features_MD, labels_M = _features(run.folder, images, config.map_images)
    except InputError as error:
        return {"problem": f"There is no map: {error}"}
    if len(features_MD) < 3:
        return {"problem": f"There is no map: {shards} holds fewer than 3 images."}
    flat = flattened(features_MD.numpy().astype(np.float64), config.map)
    return {
        "problem": "",
        "shards": shards,
        "num_images": len(labels_M),
        "chart": class_chart(TITLES[config.map], flat, labels_M.numpy(), images.class_names),
    }


def class_chart(
    title: str, flat: Flat, labels_M: NDArray[np.int64], class_names: Sequence[str]
) -> Chart:
    """Draw points coloured by class. The first classes have a colour and a shape of their own.

    Args:
        title: what is drawn.
        flat: the points.
        labels_M: int64 [M], indices into the class names.
        class_names: of all classes.
    """
    groups = [(name, labels_M == i) for i, name in enumerate(class_names[:MOST_CLASSES])]
    groups.append(("other classes", labels_M >= MOST_CLASSES))
    traces = [
        go.Scatter(
            x=flat.places_M2[chosen, 0],
            y=flat.places_M2[chosen, 1],
            name=escape(name),
            mode="markers",
            marker={
                "color": colour(i) if i < MOST_CLASSES else "var(--rule)",
                "symbol": SHAPES[i // SERIES % len(SHAPES)],
                "size": 7,
                "line": {"color": "var(--card)", "width": 0.5},
            },
            hovertext=[escape(class_names[label]) for label in labels_M[chosen]],
            hoverinfo="text",
        )
        for i, (name, chosen) in enumerate(groups)
        if chosen.any()
    ]
    drawn = new_figure(*traces, height=520, showlegend=True)
    drawn.update_layout(legend={"orientation": "v", "x": 1.01, "y": 1, "yanchor": "top"})
    drawn.update_xaxes(title=flat.axes[0], showticklabels=False, showline=False)
    drawn.update_yaxes(title=flat.axes[1], showticklabels=False, showgrid=False)
    alt = (
        f"Map of the features of {count(len(labels_M), 'image')} of "
        f"{count(len(class_names), 'class', 'classes')}, coloured by class. {flat.note}"
    )
    return Chart(title=title, figure=drawn, alt=alt, note=flat.note, wide=True)


def _features(folder: Path, images: LabelledImages, most: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Features of length 1 and labels of at most `most` images, taken evenly from the set."""
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
    """Reduce features to two dimensions, the same way for the same features.

    Args:
        features_MD: float64 [M, D], M >= 3.
        method: `pca`, or a method whose package is installed.
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
    return Flat(
        places, ("", ""), "Neighbours stay neighbours; distances between groups mean little."
    )


def _pca(features_MD: NDArray[np.float64]) -> Flat:
    centred = features_MD - features_MD.mean(axis=0)
    left, values, _ = np.linalg.svd(centred, full_matrices=False)
    # Of a direction and its opposite: the one in which the furthest point is positive.
    left = left * np.sign(left[np.abs(left).argmax(axis=0), np.arange(left.shape[1])])
    variance = values**2 / max(float((values**2).sum()), 1e-12)
    shares = [percent(float(share)) for share in variance[:2]]
    return Flat(
        (left * values)[:, :2],
        (f"first component, {shares[0]}", f"second component, {shares[1]}"),
        f"The two components hold {percent(float(variance[:2].sum()))} of the variance; classes "
        "that overlap here may still be apart in the other dimensions.",
    )
