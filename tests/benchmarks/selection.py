r"""Measure selections: how pure is what is chosen of flowers hidden among other photographs.

    python -m tests.benchmarks.selection --work runs/selection --seeds 0 1 2
    python -m tests.benchmarks.selection --report

The pool is 954 flowers and 2,046 photographs of imagenette160, chosen by hash, the target 338 other
flowers. Two short pretrainings of a seed, on the pool and on the target, about six minutes of one
core, give the encoders. A finished case is a line of JSON; the same command goes on.
"""

import hashlib
import os
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import fmean

import numpy as np
import pyarrow.parquet as pq
import torch
from scipy import stats

from jobs.cli import main, parse
from jobs.pretrain_options import read_command_line
from pipeline.precompute.config import PrecomputeConfig
from pipeline.precompute.run import run_precompute
from tests.benchmarks.ablation import RECORDS, commit_here
from tests.benchmarks.ablation_records import Record, append_record, read_records, run_key
from tests.benchmarks.ablation_run import processor
from tests.benchmarks.ablation_table import Options, command_line
from tests.benchmarks.photographs import shared_photographs
from tests.benchmarks.tables.photographs import TABLE
from training.core.context import LocalContext
from training.engine.local import launch
from training.evaluate.labelled import open_labelled
from training.select.config import ChooseConfig
from training.select.run import choose
from training.select.scorer import Scorer

FLOWER, NUM_POOL, BUDGETS = "flower", 3000, (0.1, 0.25)
SCORES, DIVERSITIES = ("random", "cosine", "loss_ratio"), ("none", "sqrt")


@dataclass(frozen=True, kw_only=True)
class SelectionConfig:
    """Which seeds are measured, or that the records are reported.

    Attributes:
        work: folder of data and runs; none of it is needed afterwards.
        seeds: of photographs, weights and draws.
        epochs: of the pretrainings on the pool and on the target, 1 or more.
        records: file of the finished cases.
        report: print what is recorded, and run nothing.
    """

    work: Path = Path("runs/selection")
    seeds: tuple[int, ...] = (0, 1, 2)
    epochs: tuple[int, int] = (30, 120)
    records: Path = RECORDS / "selection.jsonl"
    report: bool = False


def prepare(work: Path, seed: int) -> None:
    """Links to the photographs and shards of a seed's pool and target; the maps are not used."""
    source = shared_photographs()
    others = [
        (hashlib.sha256(f"{seed}".encode() + file.read_bytes()).digest(), file)
        for file in (source / "imagenette160" / "train").rglob("*.jpg")
    ]
    flowers = sorted((source / "flowers17" / "train").rglob("*.jpg"))
    chosen = [file for _, file in sorted(others)[: NUM_POOL - len(flowers)]]
    wanted = sorted((source / "flowers17" / "val").rglob("*.jpg"))
    kinds = {f"pool/{FLOWER}": flowers, "pool/other": chosen, f"target/{FLOWER}": wanted}
    for kind, files in kinds.items():
        for file in files:
            link = work / "images" / kind / f"{file.parent.name}-{file.name}"
            link.parent.mkdir(parents=True, exist_ok=True)
            if not link.is_symlink():
                link.symlink_to(file.absolute())
    for name in ("pool", "target"):
        data, out = work / "images" / name, work / name
        run_precompute(PrecomputeConfig(data=data, out=out, saliency="uniform"))


def measure(config: SelectionConfig, seed: int) -> None:
    """Pretrain, score, choose, and record what is not recorded yet."""
    work, options = config.work.absolute() / f"seed-{seed}", {"epochs": config.epochs}
    cases = [(s, d) for s in SCORES for d in DIVERSITIES if (s, d) != ("random", "sqrt")]
    done = read_records(config.records)
    names = {f"{s}, {d}": (s, d) for s, d in cases}
    left = [n for n in names if run_key("selection", n, seed, options) not in done]
    if not left:
        return
    prepare(work, seed)
    for name, epochs in zip(("pool", "target"), config.epochs, strict=True):
        places: Options = {"shards": str(work / name), "out": str(work / f"run-{name}")}
        changed: Options = {"epochs": epochs, "seed": seed, "knn.every-epochs": epochs}
        _, _, run = read_command_line(command_line(TABLE.common | places | changed))
        launch(run, LocalContext(torch.device("cpu")))
    is_flower = open_labelled(work / "pool").labels() == 0
    for name in left:
        (score, diversity), began = names[name], time.process_time()
        encoders = {"checkpoint": work / "run-pool", "target_checkpoint": work / "run-target"}
        wanted = dict(list(encoders.items())[: ("random", "cosine", "loss_ratio").index(score)])
        figures: dict[str, float] = {}
        for budget in BUDGETS:
            case = ChooseConfig(
                pool=work / "pool",
                target=work / "target",
                out=work / f"choice-{score}",  # scored once
                score=score,  # type: ignore[arg-type]
                diversity=diversity,  # type: ignore[arg-type]
                budget=budget,
                seed=seed,
                **wanted,
            )
            figures[f"purity {budget:.0%}"] = 100 * is_flower[choose(case).numbers].mean()
        tables = [pq.read_table(file) for file in Scorer(case).files]
        found = np.concatenate([table["score"].to_numpy() for table in tables])
        above = stats.mannwhitneyu(found[is_flower], found[~is_flower]).statistic
        figures["AUC"] = above / (is_flower.sum() * (~is_flower).sum())
        about = {"commit": commit_here(), "processor": processor(), "torch": torch.__version__}
        about |= {"date": datetime.now(UTC).isoformat(timespec="seconds")}
        about |= {"cpu_seconds": round(time.process_time() - began, 1)}
        key = {"table": "selection", "arm": name, "seed": seed, "options": options}
        append_record(config.records, {**key, "figures": figures, **about})


def report(records: list[Record]) -> str:
    """A Markdown table: means over the seeds, and their t intervals of 95 %."""
    columns = list(records[0]["figures"]) if records else []
    lines = [f"| score, diversity | seeds | {' | '.join(columns)} |", "|---" * (len(columns) + 2)]
    for arm in dict.fromkeys(record["arm"] for record in records):
        found = [record["figures"] for record in records if record["arm"] == arm]
        cells = [arm, str(len(found))]
        for column in columns:
            values = [figures[column] for figures in found]
            digits, cell = (3 if column == "AUC" else 1), fmean(values)
            half = stats.t.ppf(0.975, len(values) - 1) * stats.sem(values)
            ends = (
                f" ({cell - half:.{digits}f} to {cell + half:.{digits}f})" if len(found) > 1 else ""
            )
            cells.append(f"{cell:.{digits}f}{ends}")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def run() -> None:
    """Parse, measure or only report."""
    config = parse(SelectionConfig, "selection", description=__doc__)
    for seed in () if config.report else config.seeds:
        measure(config, seed)
    print(report(list(read_records(config.records).values())))


if __name__ == "__main__":
    os.environ["OMP_NUM_THREADS"] = "1"
    os.nice(19)
    torch.set_num_threads(1)
    main(run)
