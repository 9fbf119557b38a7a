"""A table of how well saliency sources find the objects of masks, and pictures of it."""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from pipeline.core.errors import InputError
from pipeline.core.progress import WARNING, say
from pipeline.saliency.foreground import Rule
from pipeline.saliency.interface import SaliencySource
from pipeline.saliency.registry import parse_saliency_source
from pipeline.saliency.score_pairs import Half, ScoredImage, pair_up, read_pair
from pipeline.saliency.score_picture import Case, best_and_worst, draw_cases
from pipeline.saliency.scoring import SourceScore, maps_of, score_sources
from pipeline.storage.storage import Location

NUM_NAMED = 5


@dataclass(frozen=True, kw_only=True)
class ScoreConfig:
    """Score saliency sources on a folder of images with a folder of masks.

    Attributes:
        images: Folder of images, of any depth.
        masks: Folder of masks with the same relative names up to the suffix; white is object.
        saliency: Sources, with options where wanted: boundary boundary:prior_sigma=0 centre.
        half: Which images, by their names alone: choose parameters on one half (choose), report on
            the other (report).
        maps: Folder of maps that another program made, for --saliency external.
        picture: PNG of the best and the worst cases of the first source.
        cases: How many of each are in the picture, 1 or more.
        processes: Processes that work at once, 0 or more; 0: one for each core.
        fidelity: Shards whose stored maps, warped with random crops, are compared with maps
            computed on the crops; instead of images and masks.
        fidelity_source: Source that looks at the crops; none: the shards' own.
        fidelity_images: Images that are looked at, 2 or more.
        fidelity_crops: Crops of each image, 1 or more.
        fidelity_size: Side of a crop in pixels, 1 or more.
        fidelity_grid: Patches along a side of a crop, 1 or more; divides fidelity_size.
        foreground: Rule of the foreground: std (mean - 0.6 standard deviations) or otsu.
    """

    groups: ClassVar[Mapping[str, tuple[str, tuple[str, ...]]]] = {
        "image": ("What is scored on.", ("images", "masks", "half")),
        "saliency": ("What is scored.", ("saliency", "maps")),
        "process": ("What is written, and on how many cores.", ("picture", "cases", "processes")),
        "fidelity": (
            "Stored maps against maps computed on the views.",
            (
                "fidelity",
                "fidelity_source",
                "fidelity_images",
                "fidelity_crops",
                "fidelity_size",
                "fidelity_grid",
                "foreground",
            ),
        ),
    }

    images: Path | None = None
    masks: Path | None = None
    saliency: tuple[str, ...] = ("boundary", "centre")
    half: Half = "all"
    maps: Path | None = None
    picture: Path | None = None
    cases: int = 6
    processes: int = 0
    fidelity: Location | None = None
    fidelity_source: str | None = None
    fidelity_images: int = 200
    fidelity_crops: int = 4
    fidelity_size: int = 224
    fidelity_grid: int = 7
    foreground: Rule = "otsu"

    def __post_init__(self) -> None:
        folders = (self.images, self.masks)
        if (None in folders) if self.fidelity is None else folders != (None, None):
            raise InputError("give --images and --masks, or --fidelity SHARDS by itself")
        if self.fidelity_source is not None:
            parse_saliency_source(self.fidelity_source)
        if self.fidelity_images < 2 or self.fidelity_crops < 1:
            raise InputError("fidelity_images must be 2 or more, fidelity_crops 1 or more")
        size, grid = self.fidelity_size, self.fidelity_grid
        if min(size, grid) < 1 or size % grid:
            raise InputError(f"fidelity_size {size} must be a multiple of fidelity_grid {grid}")
        if not self.saliency or len(set(self.saliency)) != len(self.saliency):
            raise InputError(
                f"saliency wants one source or more, each once, got {list(self.saliency)}"
            )
        for text in self.saliency:
            parse_saliency_source(text)
        if self.cases < 1:
            raise InputError(f"cases must be at least 1, got {self.cases}")
        if self.processes < 0:
            raise InputError(f"processes must not be negative, got {self.processes}")
        if self.picture is not None and self.picture.suffix.lower() != ".png":
            raise InputError(f"picture must be the name of a .png, got {self.picture}")


@dataclass(frozen=True, kw_only=True)
class ScoreReport:
    """What scoring found.

    Attributes:
        scores: of each source, in the order in which they were named.
        half: of the images.
        picture: of the best and the worst cases of the first source; none: it was not wanted.
    """

    scores: Mapping[str, SourceScore]
    half: Half
    picture: Path | None

    def values(self) -> dict[str, Any]:
        """For programs."""
        first = next(iter(self.scores.values()))
        sources = {
            name: {"auc": q.auc, "iou": q.iou, "max_f": q.max_f, "mae": q.mae, "ms": score.ms}
            for name, score in self.scores.items()
            for q in (score.quality,)
        }
        return {
            "images": first.quality.num_images,
            "half": self.half,
            "left_out": dict(first.unreadable),
            "sources": sources,
            "picture": self.picture,
        }

    def lines(self) -> Iterator[str]:
        """For people."""
        yield from _table(self.scores, self.half)
        if self.picture is not None:
            yield f"picture    {self.picture} (best and worst of {next(iter(self.scores))})"
        else:
            yield "nothing was written: --picture FILE.png draws the best and the worst cases"


def score_report(config: ScoreConfig) -> ScoreReport:
    """Score, and write the picture.

    Raises:
        InputError: nothing to score, a mask of another aspect than its image, a file that cannot
            be read.
    """
    assert config.images is not None
    assert config.masks is not None
    pairs = pair_up(config.images, config.masks, half=config.half, maps=config.maps)
    processes = config.processes or len(os.sched_getaffinity(0))
    say(
        f"scoring {', '.join(config.saliency)} on {len(pairs.paired)} images of {config.images} "
        f"with masks of {config.masks}, in {processes} processes"
    )
    if pairs.without_mask:
        count = len(pairs.without_mask)
        say(f"{WARNING}{count} images without a mask: {_named(pairs.without_mask)}")
    sources = {text: parse_saliency_source(text) for text in config.saliency}
    scores = score_sources(sources, pairs.paired, processes)
    unreadable = scores[config.saliency[0]].unreadable
    if unreadable:
        reasons = [f"{name} ({reason})" for name, reason in unreadable.items()]
        say(f"{WARNING}{len(unreadable)} images left out: {_named(reasons)}")
    if config.picture is not None:
        first = config.saliency[0]
        _draw(config, sources[first], pairs.paired, scores[first])
    return ScoreReport(scores=scores, half=config.half, picture=config.picture)


def _table(scores: Mapping[str, SourceScore], half: Half) -> Iterator[str]:
    any_score = next(iter(scores.values()))
    width = max(len("source"), *map(len, scores))
    which = "" if half == "all" else f", half: {half}"
    yield (
        f"{any_score.quality.num_images} images{which}; AUC and IoU on 7 x 7 patches of the "
        f"{any_score.quality.num_counted} with a positive patch, F and MAE on the masks' pixels"
    )
    yield f"{'source':{width}}    AUC    IoU  max F    MAE  ms/image"
    for name, score in scores.items():
        quality = score.quality
        yield (
            f"{name:{width}}  {quality.auc:.3f}  {quality.iou:.3f}  {quality.max_f:.3f}"
            f"  {quality.mae:.3f}  {score.ms:8.1f}"
        )


def _draw(
    config: ScoreConfig, source: SaliencySource, pairs: Sequence[ScoredImage], score: SourceScore
) -> None:
    assert config.picture is not None
    by_name = {pair.name: pair for pair in pairs}
    best, worst = (
        [_case(source, by_name[name], score) for name in names]
        for names in best_and_worst(score.by_image, config.cases)
    )
    quality = score.quality
    title = f"{config.saliency[0]}: AUC {quality.auc:.3f}, IoU {quality.iou:.3f}"
    draw_cases(config.picture, title, best, worst)


def _case(source: SaliencySource, pair: ScoredImage, score: SourceScore) -> Case:
    image, mask = read_pair(pair)
    (saliency,) = maps_of(source, [(pair, image)])
    return Case(pair.name, image, saliency, mask, score.by_image[pair.name])


def _named(names: Sequence[str]) -> str:
    more = ", ..." if len(names) > NUM_NAMED else ""
    return ", ".join(names[:NUM_NAMED]) + more
