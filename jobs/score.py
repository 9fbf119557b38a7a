"""Score saliency sources on images with masks: a table, and a picture of best and worst cases."""

from dataclasses import replace

from jobs.cli import conclude, from_root, main, parse
from pipeline.saliency.score_report import ScoreConfig, score_report


def run() -> None:
    """Parse the command line, score, give the table."""
    config = parse(ScoreConfig, "jobs/score.py")
    config = replace(
        config,
        images=from_root(config.images),
        masks=from_root(config.masks),
        maps=from_root(config.maps) if config.maps else None,
        picture=from_root(config.picture) if config.picture else None,
    )
    report = score_report(config)
    conclude(report.values(), *report.lines())


if __name__ == "__main__":
    main(run)
