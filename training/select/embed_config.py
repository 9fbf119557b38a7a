"""Settings of an embedding. They import no torch."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pipeline.core.errors import check
from pipeline.storage.storage import Location
from training.config.settings import check_least


@dataclass(frozen=True, kw_only=True)
class EmbedConfig:
    """Compute the features of images by a backbone, as its export would.

    Attributes:
        checkpoint: a run's folder, a checkpoint of it, or an exported backbone.
        data: shards, or whatever jobs/precompute.py takes as --data.
        out: parquet file that is written: columns name, label (null where there is none) and
            vector.
        dtype: of the vectors: float32 or float16.
        duplicates: least cosine, in (0, 1], of near-duplicates: pairs are listed in
            OUT.duplicates.csv, the nearest first. Exact copies have 1 up to rounding.
        diverse: number of images, 1 or more, that are chosen so that every image is near a chosen
            one (farthest points): OUT.diverse.txt has their names in the order of the choice.
        encoder: which encoder of the run: query, or momentum where the method has one.
        batch_size: images at once, 1 or more.
        labels: whether labels are taken from images that are no shards.
        image_column: column or suffix of the images, as jobs/precompute.py has it.
        label_column: column or suffix of the labels, likewise.
    """

    checkpoint: Path
    data: Location
    out: Path
    dtype: Literal["float32", "float16"] = "float32"
    duplicates: float | None = None
    diverse: int | None = None
    encoder: Literal["query", "momentum"] = "query"
    batch_size: int = 256
    labels: bool = True
    image_column: str = ""
    label_column: str = ""

    def __post_init__(self) -> None:
        least = self.duplicates
        check(least is None or 0 < least <= 1, f"--duplicates {least} must be in (0, 1]")
        check_least(self, "--", diverse=1, batch_size=1)
