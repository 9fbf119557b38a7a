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
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
from scipy import stats

from jobs.cli import parse
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
from training.select.config import NUM_ENCODERS, ChooseConfig
from training.select.run import choose
from training.select.scorer import Scorer

FLOWER, NUM_POOL = "flower", 3000
ARMS = (
    ("random", "none"),
    *((score, kind) for score in ("cosine", "loss_ratio") for kind in ("none", "sqrt")),
)


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
    """Links to the photographs, and shards, of a seed's pool and target; the maps are not used."""
    source = shared_photographs()
    flowers = sorted((source / "flowers17" / "train").rglob("*.jpg"))
    others = {
        hashlib.sha256(b"%d" % seed + file.read_bytes()).digest(): file
        for file in (source / "imagenette160" / "train").rglob("*.jpg")
    }
    hidden = flowers + [others[digest] for digest in sorted(others)][: NUM_POOL - len(flowers)]
    for name, files in (
        ("pool", hidden),
        ("target", (source / "flowers17" / "val").rglob("*.jpg")),
    ):
        for file in files:
            kind = FLOWER if "flowers17" in file.parts else "other"
            link = work / "images" / name / kind / f"{file.parent.name}-{file.name}"
            link.parent.mkdir(parents=True, exist_ok=True)
            if not link.is_symlink():
                link.symlink_to(file.absolute())
        images = work / "images" / name
        run_precompute(PrecomputeConfig(data=images, out=work / name, saliency="uniform"))


def measure(config: SelectionConfig, seed: int) -> None:
    """Pretrain, score, choose, and record what is not recorded yet."""
    work, options = config.work.absolute() / f"seed-{seed}", Options(epochs=config.epochs)
    done = read_records(config.records)
    left = [arm for arm in ARMS if run_key("selection", ", ".join(arm), seed, options) not in done]
    if not left:
        return
    prepare(work, seed)
    for name, epochs in zip(("pool", "target"), config.epochs, strict=True):
        places: Options = {"shards": str(work / name), "out": str(work / f"run-{name}")}
        changed: Options = {"epochs": epochs, "seed": seed}
        _, _, run = read_command_line(command_line(TABLE.common | places | changed))
        launch(run, LocalContext(torch.device("cpu")))
    is_flower = open_labelled(work / "pool").labels() == 0
    for score, diversity in left:
        began, encoders = time.process_time(), ("checkpoint", "target_checkpoint")
        runs = zip(encoders, ("run-pool", "run-target"), strict=True)
        settings: dict[str, Any] = {
            **{name: work / run for name, run in list(runs)[: NUM_ENCODERS[score]]},
            **{name: work / name for name in ("pool", "target")},
            **{"score": score, "diversity": diversity, "seed": seed},
            "out": work / f"choice-{score}",  # scored once
        }
        figures = {}
        for budget in (0.1, 0.25):
            chosen = choose(ChooseConfig(**settings, budget=budget))
            figures[f"purity {budget:.0%}"] = 100 * float(is_flower[chosen.numbers].mean())
        files = Scorer(ChooseConfig(**settings)).files
        found = np.concatenate([pq.read_table(file)["score"].to_numpy() for file in files])
        above = stats.mannwhitneyu(found[is_flower], found[~is_flower]).statistic
        figures["AUC"] = float(above / (is_flower.sum() * (~is_flower).sum()))
        record: Record = {"table": "selection", "arm": f"{score}, {diversity}", "seed": seed}
        record |= {"options": options, "figures": figures, "torch": torch.__version__}
        record |= {"commit": commit_here(), "processor": processor()}
        record["date"] = datetime.now(UTC).isoformat(timespec="seconds")
        record["cpu_seconds"] = round(time.process_time() - began, 1)
        append_record(config.records, record)


def report(records: list[Record]) -> str:
    """A Markdown table: means over the seeds, and their t intervals of 95 %."""
    columns = list(records[0]["figures"]) if records else []
    lines = [
        f"| score, diversity | seeds | {' | '.join(columns)} |",
        "|---" * (len(columns) + 2) + "|",
    ]
    for arm in dict.fromkeys(record["arm"] for record in records):
        found = [record["figures"] for record in records if record["arm"] == arm]
        cells = [arm, str(len(found))]
        for column in columns:
            values, digits = [figures[column] for figures in found], 3 if column == "AUC" else 1
            cell = f"{fmean(values):.{digits}f}"
            if len(values) > 1:
                half = stats.t.ppf(0.975, len(values) - 1) * stats.sem(values)
                cell += f" ± {half:.{digits}f}"
            cells.append(cell)
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    os.environ["OMP_NUM_THREADS"] = "1"
    os.nice(19)
    torch.set_num_threads(1)
    asked = parse(SelectionConfig, "selection", description=__doc__)
    for number in () if asked.report else asked.seeds:
        measure(asked, number)
    print(report(list(read_records(asked.records).values())))
