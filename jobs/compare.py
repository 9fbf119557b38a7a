"""Compare evaluations of the same images: differences with intervals, and gains per class."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import tyro

from jobs.cli import conclude, from_root, main, parse
from pipeline.core.errors import check
from pipeline.core.progress import say


@dataclass(frozen=True, kw_only=True)
class CompareConfig:
    """Compare evaluations that jobs/evaluate.py kept; the first is what the others are held to.

    Attributes:
        arms: two folders (--results of jobs/evaluate.py) or more; or NAME=FOLDER,FOLDER,... with a
            folder for each seed, the seeds of all arms in one order; or a single folder, whose
            checkpoints are compared.
        protocol: protocols that are compared, such as knn or finetune; none: all that are shared.
        checkpoint: which checkpoint is read where a folder holds several.
        seed: of the bootstrap, 0 or more.
    """

    arms: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="FOLDERS")]
    protocol: tuple[str, ...] = ()
    checkpoint: tuple[str, ...] = ()
    seed: int = 0

    def __post_init__(self) -> None:
        check(bool(self.arms), "name two folders of evaluations (--results of jobs/evaluate.py)")
        check(self.seed >= 0, f"seed {self.seed} must be 0 or more")


def run() -> None:
    """Parse, read, compare, give the tables."""
    config = parse(CompareConfig, "jobs/compare.py")
    # These import torch, which --help goes without.
    from training.evaluate.compare import compare, markdown, read_arms, shared_figures

    arms = read_arms(config.arms, config.checkpoint, from_root(Path()))
    figures = shared_figures(arms, config.protocol)
    names = [arm.name for arm in arms]
    say(f"comparing {', '.join(names[1:])} with {names[0]} by {', '.join(figures)}\n")
    comparisons = compare(arms, figures, seed=config.seed)
    conclude(
        {"arms": names, "comparisons": [asdict(one) for one in comparisons]},
        *markdown(comparisons),
    )


if __name__ == "__main__":
    main(run)
