"""The options of `jobs/report.py`."""

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from pipeline.core.errors import check

MapMethod = Literal["pca", "tsne", "umap"]
NEEDED_PACKAGE = {"tsne": ("sklearn", "scikit-learn"), "umap": ("umap", "umap-learn")}


@dataclass(frozen=True, kw_only=True)
class ReportConfig:
    """One HTML file that shows a shard set, a run, a sweep or a stream.

    It needs no network and nothing beside it.

    Attributes:
        folder: Folder of a shard set, a pretraining run, a sweep or a stream.
        out: File to write; none: report.html in that folder. An earlier report is replaced.
        images: Images of a shard set to show, from 1 to 240, and a quarter as many of the most and
            of the least salient. A run shows a sixth as many.
        val: Labelled shards for a run's map of features; none: those of its kNN check.
        map: How features are reduced to two dimensions: pca; tsne needs scikit-learn, umap needs
            umap-learn.
        map_images: Most images on the map, 0 or more; 0: no map.
    """

    folder: Annotated[Path, tyro.conf.Positional]
    out: Path | None = None
    images: int = 24
    val: Path | None = None
    map: MapMethod = "pca"
    map_images: int = 1000

    def __post_init__(self) -> None:
        is_url = self.folder.parts[:1] and self.folder.parts[0].endswith(":")  # s3://bucket/prefix
        advice = f"a report reads a local or mounted folder, not {self.folder}: mount or copy it"
        check(not is_url, advice)
        check(1 <= self.images <= 240, f"--images {self.images} must be from 1 to 240")
        least = f"--map-images {self.map_images} must not be negative (0: no map)"
        check(self.map_images >= 0, least)
        module, package = NEEDED_PACKAGE.get(self.map, ("", ""))
        check(
            not module or importlib.util.find_spec(module) is not None,
            f"--map {self.map} needs {package}: pip install {package}, or take --map pca",
        )
