"""Write the report of a folder as one HTML file that needs nothing beside it."""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from plotly.offline import get_plotlyjs

from pipeline.core.errors import InputError, check, write_error
from pipeline.core.progress import duration
from pipeline.shardset.schema import DATASET_FILE, PLAN_FILE, REPORT_FILE, SHARDS_FOLDER
from pipeline.storage.atomic import write_atomically
from training.config.file import CONFIG_FILE
from training.core.checkpoint import STATE_FILE
from training.report.config import ReportConfig
from training.report.run_page import run_page
from training.report.shard_set_page import shard_set_page
from training.report.state import read_object
from training.report.stream_page import stream_page
from training.report.sweep_page import sweep_page
from training.report.wording import count, figure, percent, setting
from training.stream.forgetting import FORGETTING_FILE
from training.sweep.config import SWEEP_FILE

TEMPLATES = Path(__file__).parent / "templates"
PAGES: dict[str, tuple[str, Callable[[ReportConfig], dict[str, Any]]]] = {
    "shard set": ("shard_set.html", shard_set_page),
    "run": ("run.html", run_page),
    "sweep": ("sweep.html", sweep_page),
    "stream": ("stream.html", stream_page),
}
"""Template and what fills it. A new kind of report: a file beside `run_page.py`, a template, a
line here and one in `kind_of`."""
FILTERS = (count, percent, figure, setting, duration)
MOST_BYTES = 20_000_000
"""Of a whole report. Without its pictures it has at most 6 MB; plotly's script takes 4.8."""


def kind_of(folder: Path) -> str:
    """Tell which of `PAGES` a folder is; a shard set may still be unfinished.

    Raises `InputError` if there is no such folder, or it holds nothing to report.
    """
    what = "is a file" if folder.exists() else "does not exist"
    wanted = "wanted the folder of a shard set, a run, a sweep or a stream"
    check(folder.is_dir(), f"{folder} {what}: {wanted}")
    for kind, file in (("sweep", SWEEP_FILE), ("stream", FORGETTING_FILE)):
        if (folder / file).is_file():
            return kind
    is_checkpoint = (folder / STATE_FILE).is_file()
    check(not is_checkpoint, f"{folder} is a checkpoint: name the run that it belongs to")
    if (folder / CONFIG_FILE).is_file():
        if "data_digest" in read_object(folder / CONFIG_FILE):
            return "run"
    elif any((folder / name).exists() for name in (DATASET_FILE, PLAN_FILE, SHARDS_FOLDER)):
        return "shard set"
    raise InputError(
        f"{folder} holds neither a shard set ({DATASET_FILE}), nor a run ({CONFIG_FILE} of "
        f"jobs/pretrain.py), nor a sweep ({SWEEP_FILE}), nor a stream ({FORGETTING_FILE})"
    )


def write_report(config: ReportConfig) -> Path:
    """Write the report, completely or not at all; returns the file.

    Raises `InputError` if the folder holds nothing to report, or the file cannot be written.
    """
    path = config.out or config.folder / REPORT_FILE
    template, page = PAGES[kind_of(config.folder)]
    check(not path.is_dir(), f"--out {path} is a folder: name the HTML file to write")
    html = render(template, config.folder, page(config)).encode()
    check(
        len(html) <= MOST_BYTES,
        f"the report would have {len(html) / 1e6:.0f} MB, more than {MOST_BYTES / 1e6:.0f}: "
        "lower --images or --map-images",
    )
    try:
        write_atomically(path, html)
    except OSError as error:
        raise write_error(f"the report {path}", error) from error
    return path


def render(template: str, folder: Path, page: Mapping[str, object]) -> str:
    """Fill a template of `templates/`; styles, scripts, charts and pictures are inside the result.

    The page's own security policy forbids a browser to load anything else.
    """
    loader, strict = FileSystemLoader(TEMPLATES), StrictUndefined
    environment = Environment(
        loader=loader, undefined=strict, autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {one.__name__: one for one in FILTERS}
    return environment.get_template(template).render(
        **page,
        folder=folder,
        title=str(Path(*folder.parts[-2:])),
        contents=[],
        style=(TEMPLATES / "page.css").read_text(),
        script=(TEMPLATES / "page.js").read_text(),
        plotly=get_plotlyjs(),
        version=version("salmask"),
        made=datetime.now(UTC).strftime("%Y-%m-%d at %H:%M %Z"),
    )
