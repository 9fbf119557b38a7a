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
        out: parquet file that is written: columns name, label (null: there is none) and vector.
        dtype: of the vectors: float32 or float16.
        duplicates: least cosine, in (0, 1], of near-duplicates: their pairs, the nearest first, are
            listed in a file beside --out. Exact copies have 1, up to rounding.
        diverse: number of images, 1 or more, that are chosen so that each is near a chosen one
            (farthest points): their names, in the order of the choice, in a file beside --out.
        encoder: which encoder of the run: query, or momentum where the method has one.
        image_column: column or suffix of images that are no shards, as in jobs/precompute.py.
        label_column: column or suffix of their labels, likewise.
    """

    checkpoint: Location
    data: Location
    out: Path
    dtype: Literal["float32", "float16"] = "float32"
    duplicates: float | None = None
    diverse: int | None = None
    encoder: Literal["query", "momentum"] = "query"
    image_column: str = ""
    label_column: str = ""

    def __post_init__(self) -> None:
        least = self.duplicates
        check(least is None or 0 < least <= 1, f"--duplicates {least} must be in (0, 1]")
        check_least(self, "--", diverse=1)
        check(self.out.suffix != "", f"--out {self.out} must have a suffix: features.parquet")
