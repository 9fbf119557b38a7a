r"""Plot what saliency maps are worth against how good they are, from the records of table `maps`.

    python -m tests.benchmarks.map_worth --work runs/ablation

Every source of the table is scored by the true masks of the pictures of the first seed; `shuffled`
is `boundary` scored by the masks of other pictures. Writes `map_worth.png` and prints the table.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

import numpy as np

from jobs.cli import main, parse
from pipeline.core.errors import check
from pipeline.saliency.boundary import Boundary
from pipeline.saliency.foreground import GRID_SIDE, separability
from pipeline.saliency.interface import to_grid
from pipeline.saliency.quality import ranking_auc, top_iou
from pipeline.saliency.registry import parse_saliency_source
from pipeline.saliency.scoring import ScoredImage, pair_up, read_pair, score_sources
from pipeline.saliency.worth import separable_share
from tests.benchmarks.ablation import RECORDS
from tests.benchmarks.ablation_records import Record, read_records, right_of
from tests.benchmarks.ablation_report import Interval, by_arm, difference
from tests.benchmarks.ablation_table import find_table
from tests.benchmarks.tables.maps import SHUFFLED, SOURCES
from training.evaluate.intervals import t_quantile

COLUMN, MEASURE = "changed", "knn"
TRUE_MASKS = "true masks"


@dataclass(frozen=True, kw_only=True)
class Config:
    """Where pictures and records are.

    Attributes:
        work: folder of the ablation's data.
        seed: of the pictures that the sources are scored on.
        images: scored at most.
        records: of table `maps`.
        plot: the picture that is written.
        processes: that score at once.
    """

    work: Path = Path("runs/ablation")
    seed: int = 0
    images: int = 400
    records: Path = RECORDS / "maps.jsonl"
    plot: Path = RECORDS.parent / "map_worth.png"
    processes: int = 1


class Maps(NamedTuple):
    """How good the maps of a source are.

    `auc` and `iou` are those with the true masks, on 7 x 7 patches, `clear` is the share of maps
    that set an object apart clearly, whatever the masks.
    """

    auc: float
    iou: float
    clear: float


def score_maps(pictures: Path, masks: Path, images: int, processes: int) -> dict[str, Maps]:
    """The maps of every source of the table, by arm."""
    pairs, _ = pair_up(pictures, masks)
    pairs = [pairs[i] for i in np.linspace(0, len(pairs) - 1, min(images, len(pairs))).astype(int)]
    named = {arm: text for arm, text in SOURCES.items() if arm not in (TRUE_MASKS, SHUFFLED)}
    sources = {text: parse_saliency_source(text) for text in named.values()}
    scores, _ = score_sources(sources, pairs, processes)
    quality = {arm: scores[text].quality for arm, text in named.items()}
    found = {arm: Maps(one.auc, one.iou, one.clear) for arm, one in quality.items()}
    grids = [to_grid(read_pair(pair)[1].astype(np.float32), GRID_SIDE) for pair in pairs]
    clear = separable_share(separability(np.stack(grids)).tolist())
    shuffled = Maps(*score_shuffled(pairs), found["boundary"].clear)
    return found | {SHUFFLED: shuffled, TRUE_MASKS: Maps(1.0, 1.0, clear)}


def score_shuffled(pairs: Sequence[ScoredImage]) -> tuple[float, float]:
    """Mean AUC and IoU of `boundary` maps with the objects of pictures half the list away."""
    read, source, half = [read_pair(pair) for pair in pairs], Boundary(), len(pairs) // 2
    grids = [to_grid(source([picture])[0], GRID_SIDE) for picture, _ in read]
    objects = [to_grid(mask.astype(np.float32), GRID_SIDE) > 0.5 for _, mask in read]
    others = [*objects[half:], *objects[:half]]
    aucs, ious = map(ranking_auc, grids, others), map(top_iou, grids, others)
    return fmean(v for v in aucs if v is not None), fmean(v for v in ious if v is not None)


def gains(records: list[Record], baseline: str) -> dict[str, Interval]:
    """Points of each arm above the baseline, over the seeds that both have."""
    arms = by_arm(records)
    check(baseline in arms, f"no run of {baseline!r} is recorded")
    found = {}
    for arm, runs in arms.items():
        seeds = sorted(runs.keys() & arms[baseline].keys())
        if arm == baseline or not seeds:
            continue
        ours, theirs = (
            [right_of(these[seed], COLUMN, MEASURE) for seed in seeds]
            for these in (runs, arms[baseline])
        )
        found[arm] = difference(ours, theirs, same_images=False)
    return found


def line_through(points: Mapping[str, tuple[float, float]]) -> tuple[float, float, float]:
    """Slope, its 95 % half width (t, over the sources) and the gain at an IoU of 1."""
    check(len(points) > 2, f"a line through {len(points)} sources: wanted three or more")
    x, y = np.array(sorted(points.values())).T
    slope, start = np.polyfit(x, y, 1)
    errors = y - (start + slope * x)
    spread = float(np.sqrt((errors**2).sum() / (len(x) - 2) / ((x - x.mean()) ** 2).sum()))
    return float(slope), t_quantile(len(x) - 2) * spread, float(start + slope)


def draw(iou: Mapping[str, float], gained: Mapping[str, Interval], path: Path) -> None:
    """The gain of every source, with its interval, against its IoU."""
    from matplotlib.figure import Figure  # slow to import

    figure = Figure(figsize=(7, 5), layout="constrained")
    axes = figure.subplots()
    for number, arm in enumerate(sorted(gained, key=lambda arm: iou[arm])):
        points, low, high = gained[arm]
        axes.errorbar(iou[arm], points, [[points - low], [high - points]], fmt="o", color="C0")
        # Names of neighbours stand on either side.
        away, side = (5, "left") if number % 2 == 0 else (-5, "right")
        where = (iou[arm], points), (away, 4)
        axes.annotate(arm, *where, textcoords="offset points", ha=side, fontsize=8)
    axes.axhline(0, color="0.7")
    axes.set_xlabel("IoU of the maps with the true masks, 7 x 7 patches")
    axes.set_ylabel("20-NN on changed backgrounds, points above none")
    axes.margins(x=0.15)
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=120)


def run() -> int:
    """Score, print, draw."""
    config = parse(Config, "python -m tests.benchmarks.map_worth", description=__doc__)
    pictures = config.work / "data" / "backgrounds" / f"pictures-{config.seed}"
    folders = pictures / "pictures" / "train", pictures / "masks" / "train"
    maps = score_maps(*folders, config.images, config.processes)
    gained = gains(list(read_records(config.records).values()), find_table("maps").baseline)
    print("| maps | AUC | IoU | clear | points above none, changed |\n|---|---|---|---|---|")
    for arm in sorted(gained, key=lambda arm: maps[arm].iou):
        points, low, high = gained[arm]
        of_map = f"{maps[arm].auc:.3f} | {maps[arm].iou:.3f} | {maps[arm].clear:.0%}"
        print(f"| {arm} | {of_map} | {points:+.1f} ({low:+.1f} to {high:+.1f}) |")
    iou = {arm: maps[arm].iou for arm in gained}
    slope, half, best = line_through({arm: (iou[arm], gained[arm][0]) for arm in gained})
    print(f"\nA tenth of IoU: {slope / 10:+.1f} ± {half / 10:.1f} points; at 1 {best:+.1f} points.")
    draw(iou, gained, config.plot)
    return 0


if __name__ == "__main__":
    main(run)
