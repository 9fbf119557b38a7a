"""What is to be reported: the options of the job."""

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import tyro

from pipeline.core.errors import InputError

MapMethod = Literal["pca", "tsne", "umap"]
NEEDED_PACKAGE = {"tsne": ("sklearn", "scikit-learn"), "umap": ("umap", "umap-learn")}


@dataclass(frozen=True, kw_only=True)
class ReportConfig:
    """One HTML file that shows a shard set, a run or a sweep.

    It needs no network and nothing beside it.

    Attributes:
        folder: Folder of a shard set, a pretraining run or a sweep.
        out: File to write; none: report.html in that folder. An earlier report is replaced.
        images: Images on a shard set's contact sheet, from 1 to 240; a quarter of it are the most
            and the least salient each. On a run's sheet a sixth of it.
        val: Labelled shards for a run's map of features; none: those of its kNN check.
        map: How features become two dimensions: pca; tsne needs scikit-learn, umap needs
            umap-learn.
        map_images: Images on the map at most, 0 or more; 0: no map.
    """

    groups: ClassVar[Mapping[str, tuple[str, tuple[str, ...]]]] = {
        "page": ("What is reported, and where to.", ("folder", "out", "images")),
        "feature map": ("A run's features in two dimensions.", ("map", "map_images", "val")),
    }

    folder: Annotated[Path, tyro.conf.Positional]
    out: Path | None = None
    images: int = 24
    val: Path | None = None
    map: MapMethod = "pca"
    map_images: int = 1000

    def __post_init__(self) -> None:
        if self.folder.parts and self.folder.parts[0].endswith(":"):  # s3://bucket/prefix, say
            raise InputError(
                f"a report reads a local or mounted folder, not {self.folder}: mount or copy it"
            )
        if not 1 <= self.images <= 240:
            raise InputError(f"--images {self.images} must be from 1 to 240")
        if self.map_images < 0:
            raise InputError(f"--map-images {self.map_images} must not be negative (0: no map)")
        module, package = NEEDED_PACKAGE.get(self.map, ("", ""))
        if module and importlib.util.find_spec(module) is None:
            raise InputError(
                f"--map {self.map} needs {package}: pip install {package}, or take --map pca"
            )
