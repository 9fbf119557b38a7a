"""The settings of precompute: images, output, saliency source, shards."""

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

from pipeline.core.errors import InputError
from pipeline.images.opening import MAX_PIXELS
from pipeline.images.pixel_format import PixelFormat
from pipeline.images.value_range import AUTO, LIKE, check_range
from pipeline.saliency.external import MissingMasks
from pipeline.saliency.interface import SaliencySource
from pipeline.saliency.registry import make_saliency_source, parse_saliency_source
from pipeline.shardset.manifest import load_dataset_info
from pipeline.shardset.schema import SALIENCY_SIZE, SCHEMA_VERSION
from pipeline.sources.listing import SourceOptions
from pipeline.sources.split import Split
from pipeline.storage.storage import SYNTHETIC

EXTERNAL = "external"


@dataclass(frozen=True, kw_only=True)
class PrecomputeConfig(Split):
    """From images to a shard set with saliency maps.

    Attributes:
        data: Folder of images at any depth, bucket (s3://, gs://, az://), pattern
            (images/**/*.jpg), list of paths or URLs (.txt; .csv or .parquet with a column of them),
            .parquet with images in it, or WebDataset .tar files (shards/*.tar);
            synthetic:n=20000: so many made pictures of objects, with exact masks (also ,seed=1
            ,side=96 and ,split=changed).
        out: Folder or bucket (s3://, gs://, az://) of the shard set. A run that is started again
            redoes only what is missing.
        saliency: Name of the saliency source, by default boundary, of synthetic pictures the exact
            masks: boundary, centre, explain, external, fine_grained, learned, onnx, scda,
            spectral_residual or uniform; parameters behind a colon, as in
            scda:weights=runs/first/backbone,side=224 or boundary:second_look=true.
        labels: Whether class labels are taken: from the top-level folders, or from a column. They
            are used for evaluation only.
        image_column: Column of a .csv or .parquet that has the images, or suffix of a tar's
            members that are the images.
        label_column: Column of class labels, suffix of a tar's members, or field of its .json.
        mask_column: Column of masks, or suffix of a tar's members (for --saliency external).
        masks: Folder of masks with the images' relative names, 8-bit images or .npy in [0, 1] (for
            --saliency external).
        missing_masks: What an image without a mask is: an error, or given a uniform map.
        append: Add the new ones among the images to a finished set, as new shards.
        range: What is stored of images of more than 8 bits or of floats: levels of auto (the least
            power of two that holds all integers, the floats' own range), LOW HIGH, percentile P
            (from the percentile 100 - P of all values to P), or like SHARDS (of training images,
            for others); the same for every image.
        bits: 8, or 16 to store these images as 16-bit PNGs; training reads 8 bits in any case.
        resize_short: Store larger images with their shorter side this long, in pixels, 1 or more,
            as JPEG of quality 92; none: the original bytes are kept.
        shard_images: Images at which a shard closes, 1 or more...
        shard_mib: ...or MiB of source bytes at which it does, 1 or more.
        saliency_size: Side of the stored saliency maps in cells, from 8 to 1024.
        max_rejected_fraction: Share of the images, in [0, 1], that may be rejected because they
            cannot be used: more are an error.
        max_pixels: Pixels of an image, 1 or more: a larger one is rejected before it is decoded.
    """

    data: str | Path
    out: str | Path
    saliency: str = "auto"
    labels: bool = True
    image_column: str = ""
    label_column: str = ""
    mask_column: str = ""
    masks: str | Path = ""
    missing_masks: MissingMasks = "error"
    append: bool = False
    range: tuple[str, ...] = (AUTO,)
    bits: Literal[8, 16] = 8
    resize_short: int | None = None
    shard_images: int = 256
    shard_mib: int = 256
    saliency_size: int = SALIENCY_SIZE
    max_rejected_fraction: float = 0.05
    max_pixels: int = MAX_PIXELS

    def __post_init__(self) -> None:
        super().__post_init__()
        is_made = str(self.data).startswith(SYNTHETIC)
        if self.saliency == "auto":
            object.__setattr__(self, "saliency", EXTERNAL if is_made else "boundary")
        if is_made and self.saliency == EXTERNAL and not str(self.masks):
            object.__setattr__(self, "mask_column", "exact")
        self.make_saliency()
        for name in ("shard_images", "shard_mib", "max_pixels", "resize_short"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"{name} must be at least 1, got {value}")
        if not 8 <= self.saliency_size <= 1024:
            raise InputError(f"saliency_size must be in 8..1024, got {self.saliency_size}")
        if not 0 <= self.max_rejected_fraction <= 1:
            raise InputError(
                f"max_rejected_fraction must be in 0..1, got {self.max_rejected_fraction}"
            )
        check_range(self.range)
        if self.bits not in (8, 16) or (self.bits == 16 and self.resize_short is not None):
            raise InputError(
                f"bits {self.bits}, resize_short {self.resize_short}: wanted bits 8 or 16, and 16 "
                "only for images that keep their size"
            )
        given = [name for name in ("masks", "mask_column") if str(getattr(self, name))]
        if self.saliency == EXTERNAL and len(given) != 1:
            raise InputError(
                "--saliency external wants to know where the masks are: --masks FOLDER or "
                f"--mask-column NAME{', not both' if given else ''}"
            )
        if self.saliency != EXTERNAL and given:
            raise InputError(
                f"--{given[0].replace('_', '-')} is for --saliency external, not {self.saliency}"
            )

    @property
    def source_options(self) -> SourceOptions:
        """How to read `data`."""
        return SourceOptions(
            labels=self.labels,
            image_column=self.image_column,
            label_column=self.label_column,
            mask_column=self.mask_column,
            group_column=self.group_column,
        )

    @property
    def saliency_name(self) -> str:
        """The saliency source, without its parameters."""
        return self.saliency.partition(":")[0]

    def make_saliency(self) -> SaliencySource:
        """The saliency source; InputError if it or one of its parameters is unknown."""
        if self.saliency == EXTERNAL:
            return make_saliency_source(self.saliency, missing=self.missing_masks)
        if self.saliency_name == EXTERNAL:
            raise InputError(f"saliency {EXTERNAL} takes masks as they are, without parameters")
        return parse_saliency_source(self.saliency)

    def pixels_like(self) -> PixelFormat | None:
        """The format of the set that `--range like` names; None for another range."""
        if self.range[0] != LIKE:
            return None
        return replace(load_dataset_info(self.range[1]).pixels, bits=self.bits)

    def parameters(self, described_saliency: dict[str, object]) -> dict[str, object]:
        """All settings that decide what the shards contain, for the plan."""
        depth: dict[str, object] = {"range": " ".join(self.range), "bits": self.bits}
        if (pixels := self.pixels_like()) is not None:
            depth["range"] = f"{LIKE} {json.dumps(asdict(pixels))}"
        usual = {"range": AUTO, "bits": 8}  # left out, as before there was a choice
        depth = {name: value for name, value in depth.items() if value != usual[name]}
        return (
            depth
            | self.split_parameters
            | {
                "schema_version": SCHEMA_VERSION,
                "saliency": described_saliency,
                "saliency_size": self.saliency_size,
                "shard_images": self.shard_images,
                "shard_mib": self.shard_mib,
                "max_pixels": self.max_pixels,
                "resize_short": self.resize_short,
                "labels": self.labels,
            }
        )
