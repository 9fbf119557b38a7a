"""Write one self-contained HTML file about a shard set, a run, a sweep or a stream."""

import importlib

from jobs.cli import absolute_paths, conclude, main, parse
from pipeline.core.progress import say
from pipeline.shardset.schema import REPORT_FILE
from training.report.config import ReportConfig


def run() -> None:
    """Parse the options, write the report and print its path."""
    config = absolute_paths(parse(ReportConfig, "jobs/report.py"), "folder", "out", "val")
    # The pages import torch and plotly, which `--help` does without.
    reports = importlib.import_module("training.report.write")
    kind, to = reports.kind_of(config.folder), config.out or config.folder / REPORT_FILE
    say(f"reporting the {kind} {config.folder} in {to}")
    path = reports.write_report(config)
    size = path.stat().st_size
    conclude(
        {"report": path, "kind": kind, "bytes": size},
        f"report     {path} ({size / 1e6:.1f} MB, opens in any browser)",
    )


if __name__ == "__main__":
    main(run)
