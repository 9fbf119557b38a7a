"""From a folder to its report."""

from collections.abc import Callable
from pathlib import Path

from pipeline.core.errors import InputError, write_error
from pipeline.shardset.schema import REPORT_FILE
from pipeline.storage.atomic import write_atomically
from training.report.config import ReportConfig
from training.report.kinds import Kind, kind_of
from training.report.page import Page
from training.report.render import render
from training.report.run.page import run_page
from training.report.shard_set.page import shard_set_page
from training.report.sweep.page import sweep_page

PAGES: dict[Kind, Callable[[ReportConfig], Page]] = {
    "shard set": shard_set_page,
    "run": run_page,
    "sweep": sweep_page,
}
"""A new kind of thing to report: a room beside `run`, a line here and one in `kinds.kind_of`."""
MOST_BYTES = 15_000_000


def write_report(config: ReportConfig) -> Path:
    """Write the report, whole or not at all.

    Returns:
        The file.

    Raises:
        InputError: nothing that a report can be made of, or a file that cannot be written.
    """
    path = config.out or config.folder / REPORT_FILE
    page = PAGES[kind_of(config.folder)](config)
    if path.is_dir():
        raise InputError(f"--out {path} is a folder: name the HTML file to write")
    html = render(page).encode()
    if len(html) > MOST_BYTES:
        raise InputError(
            f"the report would have {len(html) / 1e6:.0f} MB, more than {MOST_BYTES / 1e6:.0f}: "
            "lower --images or --map-images"
        )
    try:
        write_atomically(path, html)
    except OSError as error:
        raise write_error(f"the report {path}", error) from error
    return path
