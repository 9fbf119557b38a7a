"""Write a run's backbone in the layouts of other libraries, with its preprocessing and a card."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from jobs.cli import absolute_paths, conclude, main, parse
from pipeline.core.errors import InputError, check
from pipeline.core.progress import WARNING, say
from pipeline.storage.storage import Location, is_url


@dataclass(frozen=True, kw_only=True)
class ExportConfig:
    """Write a backbone as torchvision (or timm) names it, and in further formats beside it.

    Attributes:
        checkpoint: a run's folder, a checkpoint of it, or an exported backbone.
        out: folder of the export; an earlier export in it is replaced.
        formats: any of safetensors, timm (which transformers loads, too) and onnx, beside the state
            dict (extra export); all: every one of them; none: the state dict alone.
        encoder: which encoder of the run: query, or momentum where the method has one.
        results: folder of jobs/evaluate.py: its figures of this backbone go onto the model card.
        channels: share of the MACs that is left, in (0, 1): inner channels are removed.
        shards: with --channels: shards or class folders; 1,000 of the images rank the channels.
    """

    checkpoint: Location
    out: Path
    formats: tuple[str, ...] = ("all",)
    encoder: Literal["query", "momentum"] = "query"
    results: Path | None = None
    channels: float | None = None
    shards: Path | None = None

    def __post_init__(self) -> None:
        alone = self.channels is None and self.shards is not None
        check(not alone, f"--shards {self.shards} is of use with --channels only: leave it out")
        fits = self.channels is None if self.shards is None else 0 < (self.channels or 0) < 1
        check(fits, f"channels {self.channels} wants a share in (0, 1), and --shards with it")


def run() -> None:
    """Parse, write, say what lies where."""
    config = parse(ExportConfig, "jobs/export.py", positional=("checkpoint", "out"))
    config = absolute_paths(config, "checkpoint", "out", "results", "shards")
    # These import torch, which --help goes without.
    from pipeline.backbone.folder import CARD_NAME, write_backbone
    from pipeline.backbone.formats import FORMATS
    from training.evaluate.channels import load_narrowed
    from training.evaluate.results import figures_of, read_results

    source, out = config.checkpoint, config.out
    if not is_url(source) and out in (Path(source), Path(source, "backbone")):
        raise InputError(f"{out} is the run's own export: choose another folder as --out")
    network, info = load_narrowed(source, config.encoder, config.channels, config.shards)
    has_timm = not info.channels and info.pixels.channels == 3
    every = tuple(name for name in FORMATS if name != "timm" or has_timm)
    formats = every if config.formats == ("all",) else config.formats
    say(f"exporting {source} as {', '.join(formats) or 'a state dict alone'} into {out}")
    measured = [] if config.results is None else read_results(config.results)
    figures = figures_of(measured, info.weights_sha256)
    if config.results is not None and not figures:
        say(
            f"{WARNING}{config.results} has no figure of these weights "
            f"({info.weights_sha256[:12]}): the card shows none (measure them: jobs/evaluate.py)"
        )
    written = write_backbone(out, network.state_dict(), info, formats=formats, figures=figures)
    if info.preprocessing.high_pass is not None:
        say(
            f"{WARNING}this backbone wants high-passed images, which timm and transformers cannot "
            "make"
        )
    names = sorted(entry.name for entry in out.iterdir())
    conclude(
        {"out": out, "files": names, "weights_sha256": written.weights_sha256},
        f"{info.architecture}, weights {written.weights_sha256[:12]}",
        *(f"  {name}" for name in names),
        f"results    {out} (how to load each of them: {out / CARD_NAME})",
    )


if __name__ == "__main__":
    main(run)
