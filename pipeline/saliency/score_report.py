"""The settings of jobs/score.py, and its table and picture."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps

from pipeline.core.cores import own_cores
from pipeline.core.errors import check
from pipeline.core.progress import WARNING, say
from pipeline.saliency.external import External
from pipeline.saliency.foreground import Rule
from pipeline.saliency.interface import SaliencySource
from pipeline.saliency.quality import SMALL, MapQuality
from pipeline.saliency.registry import parse_saliency_source
from pipeline.saliency.scoring import (
    Half,
    ScoredImage,
    SourceScore,
    maps_of,
    pair_up,
    read_pair,
    score_sources,
)
from pipeline.saliency.worth import expectation
from pipeline.storage.atomic import write_atomically
from pipeline.storage.storage import Location

NUM_NAMED = 5
FIGURES = ("auc", "iou", "iou_56", "small_56", "max_f", "mae")
CLEAR_FIGURES = ("clear", "iou_clear", "iou_unclear")
TILE, GAP, HEADER, CAPTION = 144, 6, 26, 18
INK, PAPER = (40, 40, 44), (250, 250, 248)


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
        given = sum(folder is not None for folder in (self.images, self.masks))
        fits = given == (2 if self.fidelity is None else 0)
        check(fits, "give --images and --masks, or --fidelity SHARDS by itself")
        fits = self.fidelity_images >= 2 and self.fidelity_crops >= 1
        check(fits, "fidelity_images must be 2 or more, fidelity_crops 1 or more")
        size, grid, named = self.fidelity_size, self.fidelity_grid, list(self.saliency)
        fits = min(size, grid) >= 1 and size % grid == 0
        check(fits, f"fidelity_size {size} must be a multiple of fidelity_grid {grid}")
        fits = 0 < len(set(named)) == len(named)
        check(fits, f"saliency wants one source or more, each once, got {named}")
        for text in (*named, self.fidelity_source):
            if text is not None:
                plain = isinstance(parse_saliency_source(text), External)
                fits = plain or text.partition(":")[0] != "external"
                check(fits, f"{text}: external takes masks as they are, leave the options out")
        check(self.cases >= 1, f"cases must be at least 1, got {self.cases}")
        check(self.processes >= 0, f"processes must not be negative, got {self.processes}")
        fits = self.picture is None or self.picture.suffix.lower() == ".png"
        check(fits, f"picture must be the name of a .png, got {self.picture}")


def score_report(config: ScoreConfig) -> tuple[dict[str, Any], list[str]]:
    """Score, and write the picture.

    Returns:
        The result for programs, and the lines for people.

    Raises:
        InputError: nothing to score, a mask of another aspect than its image, a file that cannot
            be read.
    """
    assert config.images is not None
    assert config.masks is not None
    pairs, without_mask = pair_up(config.images, config.masks, half=config.half, maps=config.maps)
    processes = config.processes or len(own_cores())
    say(
        f"scoring {', '.join(config.saliency)} on {len(pairs)} images of {config.images} "
        f"with masks of {config.masks}, in {processes} processes"
    )
    if without_mask:
        say(f"{WARNING}{len(without_mask)} images without a mask: {_named(without_mask)}")
    sources = {text: parse_saliency_source(text) for text in config.saliency}
    scores, unreadable = score_sources(sources, pairs, processes)
    if unreadable:
        reasons = [f"{name} ({reason})" for name, reason in unreadable.items()]
        say(f"{WARNING}{len(unreadable)} images left out: {_named(reasons)}")
    first = config.saliency[0]
    outcome = "nothing was written: --picture FILE.png draws the best and the worst cases"
    if config.picture is not None:
        sheet = draw_cases(first, sources[first], scores[first], pairs, config.cases)
        png = BytesIO()
        sheet.save(png, "png")
        write_atomically(config.picture, png.getvalue())
        outcome = f"picture    {config.picture} (best and worst of {first})"
    by_source = {
        name: {f: getattr(score.quality, f) for f in (*FIGURES, *CLEAR_FIGURES)} | {"ms": score.ms}
        for name, score in scores.items()
    }
    values = {
        "images": scores[first].quality.num_images,
        "half": config.half,
        "left_out": unreadable,
        "sources": by_source,
        "picture": config.picture,
    }
    worth = (
        f"{name}: {expectation(score.quality.clear, score.quality.num_images)}"
        for name, score in scores.items()
    )
    return values, [*_table(scores, config.half), *worth, outcome]


def _table(scores: Mapping[str, SourceScore], half: Half) -> Iterator[str]:
    quality = next(iter(scores.values())).quality
    width = max(len("source"), *map(len, scores))
    which = "" if half == "all" else f", half: {half}"
    yield (
        f"{quality.num_images} images{which}; AUC and IoU on 7 x 7 patches of the "
        f"{quality.num_counted} with a positive patch; IoU 56 on 56 x 56 cells, small: of objects "
        f"below {SMALL:.0%} of the image; F and MAE on the masks' pixels; clear: of the "
        "maps that set an object apart, whatever the mask, their IoU, and that of the rest"
    )
    heads = "  AUC    IoU  IoU 56  small  max F    MAE  clear    IoU   rest  ms/image"
    yield f"{'source':{width}}  {heads}"
    for name, score in scores.items():
        quality = score.quality
        yield (
            f"{name:{width}}  {quality.auc:.3f}  {quality.iou:.3f}   {quality.iou_56:.3f}"
            f"  {quality.small_56:.3f}  {quality.max_f:.3f}  {quality.mae:.3f}"
            f"  {quality.clear:5.0%}  {quality.iou_clear:.3f}  {quality.iou_unclear:.3f}"
            f"  {score.ms:8.1f}"
        )


def _named(names: Sequence[str]) -> str:
    more = ", ..." if len(names) > NUM_NAMED else ""
    return ", ".join(names[:NUM_NAMED]) + more


def draw_cases(
    name: str, source: SaliencySource, score: SourceScore, pairs: Sequence[ScoredImage], num: int
) -> Image.Image:
    """Draw image, map and mask of a source's `num` best cases (left) and worst cases (right).

    Cases are ranked by IoU, then AUC; images without a positive patch are left out.
    """
    counted = [
        (quality.iou, quality.auc or 0.0, pair.name, pair)
        for pair in pairs
        if (quality := score.by_image.get(pair.name)) and quality.iou is not None
    ]
    ranked = [pair for *_, pair in sorted(counted, key=lambda case: case[:3])]
    num = min(num, len(ranked) // 2)
    columns = {"best": ranked[::-1][:num], "worst": ranked[:num]}
    width = 3 * (TILE + GAP) + 3 * GAP
    sheet = Image.new("RGB", (2 * width, 2 * HEADER + num * (TILE + CAPTION + GAP)), PAPER)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=13)
    title = f"{name}: AUC {score.quality.auc:.3f}, IoU {score.quality.iou:.3f}"
    draw.text((GAP, 6), title, fill=INK, font=font)
    for column, (heading, cases) in enumerate(columns.items()):
        left = column * width + GAP
        for place, words in enumerate((f"{heading}: image", "map", "mask")):
            draw.text((left + place * (TILE + GAP), HEADER + 6), words, fill=INK, font=font)
        for row, pair in enumerate(cases):
            top = 2 * HEADER + row * (TILE + CAPTION + GAP)
            for place, tile in enumerate(_tiles(source, pair)):
                sheet.paste(tile, (left + place * (TILE + GAP), top))
            caption = _caption(pair.name, score.by_image[pair.name])
            draw.text((left, top + TILE + 1), caption, fill=INK, font=font)
    return sheet


def _caption(name: str, quality: MapQuality) -> str:
    auc = "" if quality.auc is None else f"AUC {quality.auc:.2f}  "
    short = name if len(name) < 36 else "..." + name[-33:]
    return f"{auc}IoU {quality.iou:.2f}  {short}"


def _tiles(source: SaliencySource, pair: ScoredImage) -> list[Image.Image]:
    """Image, map and mask, each fitted into a square."""
    image, mask = read_pair(pair)
    (saliency,) = maps_of(source, [(pair, image)])
    levels = np.rint(np.clip(saliency, 0, 1) * 255).astype(np.uint8)
    heat = cv2.applyColorMap(cv2.resize(levels, image.shape[1::-1]), cv2.COLORMAP_INFERNO)
    pictures = (image, heat[:, :, ::-1], mask.astype(np.uint8) * 255)
    return [
        ImageOps.pad(Image.fromarray(np.asarray(p)).convert("RGB"), (TILE, TILE), color=PAPER)
        for p in pictures
    ]
