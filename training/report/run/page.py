"""The report of a pretraining run."""

from itertools import pairwise

from training.core.fields import dotted
from training.report.config import ReportConfig
from training.report.page import Facts, Page
from training.report.run.curves import learning_section, masking_section, speed_section
from training.report.run.feature_map import map_section
from training.report.run.masks import masks_section
from training.report.run.settings import provenance_section, settings_section
from training.report.run.state import RunState, read_run
from training.report.wording import count, duration, figure, folder_title

IMAGES_A_CARD = 6
"""So many images of a shard set's sheet count as one sample of a run's, which takes more room."""


def run_page(config: ReportConfig) -> Page:
    """Read a run's record; draw its masks again; map its features.

    Raises:
        InputError: its settings are damaged. What else is missing is said in the report.
    """
    run = read_run(config.folder)
    return Page(
        title=folder_title(run.folder),
        kicker="pretraining run",
        place=str(run.folder),
        summary=summary(run),
        facts=Facts(pairs=_facts(run)),
        sections=(
            learning_section(run),
            masks_section(run, max(1, config.images // IMAGES_A_CARD)),
            masking_section(run),
            map_section(run, config),
            speed_section(run),
            settings_section(run),
            provenance_section(run),
        ),
    )


def summary(run: RunState) -> str:
    """How the run stands."""
    architecture = dict(run.recorded["encoder"]).get("architecture", "an unknown network")
    method = dotted(run.recorded).get("method.name", "an unknown method")
    what = f"{architecture} by {method}"
    if not run.entries:
        return f"{what}: nothing was recorded yet."
    if run.finished:
        stands = f"{what}, finished: {count(run.epochs, 'epoch')} in {count(run.step, 'step')}."
    elif run.steps_per_epoch is None:
        stands = f"{what}, {count(run.step, 'step')} recorded; whether that is all is not known."
    else:
        stands = (
            f"{what}, unfinished: the record ends at epoch {run.step / run.steps_per_epoch:.2f} of "
            f"{run.epochs} (step {run.step:,} of {run.total_steps:,}); it may still be running."
        )
    knn = run.column("knn")
    if knn is not None and len(knn[1]) > 1 and knn[0][0] == 0:
        stands += f" kNN went from {knn[1][0]:.2f} % untrained to {knn[1][-1]:.2f} %."
    return stands


def _facts(run: RunState) -> list[tuple[str, str]]:
    facts = [("steps", count(run.step))]
    if run.total_steps is not None:
        facts[0] = ("steps", f"{run.step:,} of {run.total_steps:,}")
    if run.info is not None:
        facts.append(("images", count(run.info.num_images)))
    facts.append(("global batch", count(int(run.recorded["batch_size"]))))
    for name, label, unit in (("loss", "last loss", ""), ("knn", "last kNN", " %")):
        value = run.last(name)
        facts.append((label, "not measured" if value is None else figure(value) + unit))
    rate = run.last("images_per_second")
    if rate is not None:
        facts += [("last rate", f"{rate:.0f} images/s"), ("time in steps", _time(run))]
    return facts


def _time(run: RunState) -> str:
    """Time of the recorded steps: without evaluations, checkpoints and starts."""
    timed = [
        (float(entry["step"]), float(entry["images_per_second"]))
        for entry in run.entries
        if "images_per_second" in entry
    ]
    batch = int(run.recorded["batch_size"])
    pairs = pairwise([(0.0, 1.0), *timed])
    return duration(sum((now[0] - before[0]) * batch / now[1] for before, now in pairs))
