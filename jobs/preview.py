"""Draw saliency and masks of some images on a page, before anything is precomputed."""

import importlib
import tempfile
from dataclasses import dataclass
from pathlib import Path

from jobs.cli import absolute_paths, conclude, main, parse
from pipeline.core.errors import check
from pipeline.core.progress import listening, numbered, say
from pipeline.precompute.config import PrecomputeConfig
from pipeline.precompute.local_job import build_locally
from pipeline.precompute.run import run_precompute
from pipeline.storage.storage import Location

SHARD_IMAGES = 6
"""Small, so that several processes work."""


@dataclass(frozen=True, kw_only=True)
class PreviewConfig:
    """One HTML file with saliency, foreground and masked views of some images.

    They are computed for these images alone; nothing else is written.

    Attributes:
        data: images, as jobs/precompute.py takes them as --data.
        out: file to write; an earlier one is replaced.
        images: how many, evenly spread over all, from 2 to 240.
        recipe: whose masks are drawn.
        saliency: saliency source, as that of jobs/precompute.py.
        image_column: column or suffix of the images, likewise.
    """

    data: Location
    out: Path = Path("preview.html")
    images: int = 24
    recipe: str = "simclr_small"
    saliency: str = "auto"
    image_column: str = ""

    def __post_init__(self) -> None:
        check(2 <= self.images <= 240, f"--images {self.images} must be from 2 to 240")


def run() -> None:
    """Parse, compute the maps, draw the page, say where it is."""
    config = parse(PreviewConfig, "jobs/preview.py", positional=("data",))
    config = absolute_paths(config, "data", "out")
    say(f"previewing {config.images} images of {config.data} in {config.out}")
    with tempfile.TemporaryDirectory(prefix="salmask-") as folder:
        asked = PrecomputeConfig(
            data=config.data,
            out=Path(folder),
            saliency=config.saliency,
            image_column=config.image_column,
            shard_images=SHARD_IMAGES,
            max_rejected_fraction=1.0,
        )
        with listening(None):
            info = run_precompute(asked, build_locally, most=config.images)
        # Torch and plotly take seconds to import, and the processes above import this file.
        page = importlib.import_module("training.report.preview_page")
        page.write_preview(config.out, Path(folder), str(config.data), config.recipe)
    rejected = f", {info.num_rejected} could not be used" if info.num_rejected else ""
    conclude(
        {"preview": config.out, "images": info.num_images, "rejected": info.num_rejected},
        f"preview    {config.out}: {numbered(info.num_images, 'image')}{rejected} "
        "(next: jobs/precompute.py)",
    )


if __name__ == "__main__":
    main(run)
