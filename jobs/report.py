"""Write one self-contained HTML file about a shard set, a run or a sweep."""

from dataclasses import replace

from jobs.cli import conclude, from_root, main, parse
from pipeline.core.progress import say
from pipeline.shardset.schema import REPORT_FILE
from training.report.config import ReportConfig
from training.report.kinds import kind_of
from training.report.write import write_report


def run() -> None:
    """Parse, write, say where the file is."""
    config = parse(ReportConfig, "jobs/report.py")
    config = replace(
        config,
        folder=from_root(config.folder),
        out=config.out and from_root(config.out),
        val=config.val and from_root(config.val),
    )
    kind, to = kind_of(config.folder), config.out or config.folder / REPORT_FILE
    say(f"reporting the {kind} {config.folder} in {to}")
    path = write_report(config)
    size = path.stat().st_size
    conclude(
        {"report": path, "kind": kind, "bytes": size},
        f"report     {path} ({size / 1e6:.1f} MB, opens in any browser)",
    )


if __name__ == "__main__":
    main(run)
