"""Pretrain on sets that arrive one after the other, and measure what is forgotten of each."""

import importlib
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from shlex import quote
from typing import TYPE_CHECKING

from jobs.cli import conclude, main
from jobs.pretrain_options import runs_here
from jobs.stream_options import read_options
from pipeline.core.errors import Stopped
from pipeline.core.progress import say

if TYPE_CHECKING:
    from training.stream.figures import Asked
    from training.stream.run import Launch, Measure


def run() -> int:
    """Run the stages of the command line, measure them, give the table."""
    stream, local = read_options(sys.argv[1:], str(__doc__))
    out, replay, anchor = stream.base.out, stream.base.replay, stream.base.anchor
    say(
        f"pretraining by {stream.base.method.name} on {len(stream.stages)} sets, one after the "
        f"other, into {out}: earlier images are {replay.share:.0%} of a batch, anchor {anchor.kind}"
    )
    # Torch and Ray take seconds to import: after the command line, and only where they are used.
    from training.stream.forgetting import FORGETTING_FILE
    from training.stream.run import run_stream

    alone = runs_here(local, stream.base.num_workers)
    with here() if alone else on_ray() as (launch, measure):
        table = run_stream(stream, launch, measure)
    if table is None:
        conclude({"out": out, "finished": False}, "stopped: the same command goes on from there")
        return Stopped.exit_code
    file, page = out / FORGETTING_FILE, None
    if os.environ.get("RANK", "0") == "0":
        report = importlib.import_module("training.report.write")
        page = report.write_report(report.ReportConfig(folder=out))
    head, *rows = table.cells()
    found = [dict(zip(head, row, strict=True)) for row in rows]
    conclude(
        {"out": out, "finished": True, "file": file, "page": page, "table": found},
        *table.lines(),
        f"results    {page} and {file} "
        f"(next: jobs/evaluate.py --checkpoint {quote(str(out))}/stage-NN)",
    )
    return 0


@contextmanager
def here() -> "Iterator[tuple[Launch, Measure]]":
    """Runs and measurements in this process, or in those of torchrun, which join once for all."""
    from training.core.context import LocalContext
    from training.core.threads import sharing_threads, threads_set_by_user
    from training.engine.local import launch, process_group
    from training.stream.figures import measure

    def measure_here(asked: "Asked") -> list[float]:
        with sharing_threads(fixed=threads_set_by_user()):
            return measure(asked, LocalContext().device)

    with process_group():
        yield launch, measure_here


@contextmanager
def on_ray() -> "Iterator[tuple[Launch, Measure]]":
    """Runs and measurements on Ray's workers."""
    from pipeline.precompute.ray_session import ray_running
    from training.ray.launch import launch
    from training.ray.workers import call_on_workers
    from training.stream.figures import measure

    with ray_running():
        yield launch, lambda one: call_on_workers(measure, one, one.run.num_workers, one.run.out)


if __name__ == "__main__":
    main(run)
