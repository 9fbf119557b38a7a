"""Tables and a picture of finished runs, from their records alone."""

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

import numpy as np
from scipy import stats

from tests.benchmarks.ablation_records import MEASURES, Record, Right, right_of
from tests.benchmarks.ablation_table import FIRST_CHOICE_SEED, plain
from training.evaluate.intervals import paired_difference, seeds_difference

RESAMPLING_SEED = 0
Interval = tuple[float, float, float]
"""Points, low and high end of 95 %."""


def difference(arm: Sequence[Right], other: Sequence[Right], *, same_images: bool) -> Interval:
    """How many points an arm is better than another one, seed by seed on the same images.

    One seed: the paired bootstrap over its images. Several: the interval of both seeds and images
    where all seeds share the images, else the t interval of the seeds' differences.
    """
    if len(arm) == 1:
        found = paired_difference(other[0], arm[0], RESAMPLING_SEED)
        return found.points, found.low, found.high
    if same_images:
        found = seeds_difference(np.stack(other), np.stack(arm))
        return found.points, found.low, found.high
    points = [100 * (float(a.mean()) - float(b.mean())) for a, b in zip(arm, other, strict=True)]
    mean, half = fmean(points), stats.t.ppf(0.975, len(points) - 1) * stats.sem(points)
    return mean, mean - half, mean + half


def by_arm(records: Sequence[Record]) -> dict[str, dict[int, Record]]:
    """Records by arm and seed; of an arm whose options have changed, those of its newest line."""
    newest = {record["arm"]: plain(record["options"]) for record in records}
    arms: dict[str, dict[int, Record]] = {}
    for record in records:
        if plain(record["options"]) == newest[record["arm"]]:
            arms.setdefault(record["arm"], {})[record["seed"]] = record
    return arms


def report(records: Sequence[Record], against: str) -> str:
    """Markdown of one table: means over the seeds, and differences against an arm."""
    if not records:
        return "No run has finished."
    parts = {
        "Reported seeds": [r for r in records if r["seed"] < FIRST_CHOICE_SEED],
        "Seeds for choosing settings": [r for r in records if r["seed"] >= FIRST_CHOICE_SEED],
    }
    return "\n\n".join(
        f"### {title}\n\n{_means(by_arm(part))}\n\n{_differences(by_arm(part), against)}"
        for title, part in parts.items()
        if part
    )


def _columns(arms: dict[str, dict[int, Record]]) -> list[tuple[str, str]]:
    record = next(iter(next(iter(arms.values())).values()))
    figures = record["figures"]
    return [(column, measure) for measure in MEASURES for column in figures
            if measure in figures[column]]  # fmt: skip


def _head(columns: Sequence[tuple[str, str]], *more: str) -> list[str]:
    titles = ["arm", "seeds", *(f"{MEASURES[measure]} {column}" for column, measure in columns)]
    titles += more
    return [f"| {' | '.join(titles)} |", "|---" * len(titles) + "|"]


def _means(arms: dict[str, dict[int, Record]]) -> str:
    """One line an arm: mean and standard deviation over the seeds, and what a run costs."""
    columns, runs_of_all = _columns(arms), [run for runs in arms.values() for run in runs.values()]
    costs = {"pixels": ("Gpixels", 2, 1e9), "cpu_seconds": ("CPU min", 1, 60.0)}
    costs = {name: how for name, how in costs.items() if all(name in r for r in runs_of_all)}
    lines = _head(columns, *(title for title, _, _ in costs.values()))
    for arm, runs in arms.items():
        cells = [arm, seeds_of(runs)]
        for column, measure in columns:
            figures = [run["figures"][column][measure] for run in runs.values()]
            spread = f" ± {np.std(figures, ddof=1):.1f}" if len(figures) > 1 else ""
            cells.append(f"{fmean(figures):.1f}{spread}")
        for name, (_, digits, unit) in costs.items():
            cells.append(f"{fmean(run[name] for run in runs.values()) / unit:.{digits}f}")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, "", "Top-1 in %: mean ± standard deviation over the seeds."])


def _differences(arms: dict[str, dict[int, Record]], against: str) -> str:
    """One line an arm: paired differences, over the seeds that both have."""
    if against not in arms:
        return f"No run of {against!r} has finished: nothing to compare with."
    columns = _columns(arms)
    lines, base = _head(columns), arms[against]
    for arm, runs in arms.items():
        seeds = sorted(runs.keys() & base.keys())
        if arm == against or not seeds:
            continue
        cells = [arm, seeds_of(seeds)]
        for column, measure in columns:
            own, other = (
                [right_of(those[seed], column, measure) for seed in seeds] for those in (runs, base)
            )
            images = {runs[seed]["images"][column] for seed in seeds}
            points, low, high = difference(own, other, same_images=len(images) == 1)
            cells.append(f"{points:+.1f} ({low:+.1f} to {high:+.1f})")
        lines.append(f"| {' | '.join(cells)} |")
    note = f"Points above {against!r} on the same seeds and images, with 95 % intervals."
    return "\n".join([*lines, "", note])


def seeds_of(seeds: Sequence[int] | dict[int, Record]) -> str:
    return ", ".join(map(str, sorted(seeds)))


def draw_frontier(records: Sequence[Record], path: Path, measure: str = "knn") -> None:
    """Draw every arm's mean on usual against changed backgrounds, and the frontier."""
    reported = [r for r in records if r["seed"] < FIRST_CHOICE_SEED] or list(records)
    points = {
        arm: tuple(
            fmean(run["figures"][column][measure] for run in runs.values())
            for column in ("usual", "changed")
        )
        for arm, runs in by_arm(reported).items()
    }
    best = [
        point
        for point in sorted(set(points.values()))
        if not any(a >= point[0] and b >= point[1] for a, b in set(points.values()) - {point})
    ]
    from matplotlib.figure import Figure  # slow to import

    figure = Figure(figsize=(7, 5), layout="constrained")
    axes = figure.subplots()
    axes.plot(*zip(*best, strict=True), color="0.7", zorder=0)
    for arm, (usual, changed) in points.items():
        axes.plot(usual, changed, "o", color="C0")
        axes.annotate(arm, (usual, changed), (4, 4), textcoords="offset points", fontsize=8)
    axes.set_xlabel(f"usual backgrounds, {MEASURES[measure]} top-1, %")
    axes.set_ylabel(f"changed backgrounds, {MEASURES[measure]} top-1, %")
    axes.grid(alpha=0.3)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
