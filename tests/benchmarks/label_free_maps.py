r"""Measure saliency that runs have learned without labels on ECSSD: generators, explainers, scda.

    python -m tests.benchmarks.label_free_maps --work runs/maps --seeds 0 1 2
    python -m tests.benchmarks.label_free_maps --report

Runs learn on 4,000 photographs of imagenette160 and never see ECSSD. Mask generators of the three
kinds learn beside the small network; a ResNet-18 is the backbone of an explainer with each of three
settings, and of `scda`. Kind and setting are chosen by AUC on half of ECSSD with the first seed,
and reported on the other half. A finished source is a line of JSON, and the same command goes on.
"""

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch

from jobs.cli import parse
from jobs.pretrain_options import read_command_line
from pipeline.core.progress import say
from pipeline.saliency.registry import parse_saliency_source
from pipeline.saliency.scoring import Half, pair_up, score_sources
from tests.benchmarks.ablation import RECORDS, commit_here
from tests.benchmarks.ablation_records import Record, append_record, read_records, run_key
from tests.benchmarks.ablation_run import processor
from tests.benchmarks.ablation_table import Options, command_line
from tests.benchmarks.photographs import shared_photographs
from tests.benchmarks.stream import words
from tests.benchmarks.tables.photographs import OBJECT_EXCHANGE, TABLE
from training.core.context import LocalContext
from training.engine.local import launch
from training.explain.config import ExplainConfig
from training.explain.train import explain

NAME = "label_free_maps"
HALVES: tuple[Half, ...] = ("choose", "report")
COLUMNS = ("auc", "iou", "iou_56")
LEARNED: dict[str, Options] = {
    f"learned, {kind}": {"masks.strategy": "learned", "masks.learned.kind": kind}
    for kind in ("topk", "slots", "sequential")
}
EXPLAINERS: dict[str, dict[str, float]] = {
    "explain": {},
    "explain, temperature 0.05": {"temperature": 0.05},
    "explain, area 2": {"area_weight": 2.0},
}
BACKBONE: Options = {
    "encoder.architecture": "resnet18",
    "encoder.stem": "small",
    "views.size": 32,
    "views.grid": 4,
    **OBJECT_EXCHANGE,
}
"""`scda` knows torchvision's networks only."""
FIXED = ("boundary", "boundary:second_look=true,refine=true", "centre")


@dataclass(frozen=True, kw_only=True)
class MapsConfig:
    """Which seeds are measured, or that the records are reported.

    Attributes:
        work: folder of data and runs; none of it is needed afterwards.
        seeds: of weights and draws; the first one chooses.
        epochs: of the pretrainings of generators and of the backbone, 1 or more.
        steps: of an explainer, 1 or more.
        records: file of the finished sources.
        report: print what is recorded, and run nothing.
    """

    work: Path = Path("runs/maps")
    seeds: tuple[int, ...] = (0, 1, 2)
    epochs: tuple[int, int] = (40, 15)
    steps: int = 300
    records: Path = RECORDS / f"{NAME}.jsonl"
    report: bool = False


def pretrained(config: MapsConfig, name: str, seed: int, options: Options) -> Path:
    """A finished run."""
    say(f"{name}, seed {seed}")
    data = TABLE.prepare(config.work, seed)
    out = config.work / f"{name.replace(', ', '-')}-{seed}"
    places: Options = {"shards": str(data.shards), "out": str(out), "seed": seed}
    places |= {"knn.every-epochs": 1_000_000, "checkpoint.every-minutes": 5.0, "checkpoint.keep": 1}
    given = command_line(TABLE.common | options | places)
    if not launch(read_command_line(given)[2], LocalContext(torch.device("cpu"))).finished:
        raise SystemExit("stopped; the same command goes on")
    return out


def sources_of(config: MapsConfig, seed: int, wanted: list[str]) -> Iterator[tuple[str, str]]:
    """Name and source of what learns with a seed, each when it is there."""
    images = shared_photographs() / "saliency_ecssd" / "images"
    epochs, backbone_epochs = config.epochs
    for name, options in LEARNED.items():
        if name in wanted:
            run = pretrained(config, name, seed, {**options, "epochs": epochs})
            yield name, f"learned:weights={run}"
            yield f"{name}: its mean map", f"learned:weights={run},mean_of={images}"
    backbone = pretrained(config, "backbone", seed, {**BACKBONE, "epochs": backbone_epochs})
    yield "scda", f"scda:weights={backbone}"
    for name, settings in EXPLAINERS.items():
        if name in wanted:
            out = config.work / f"{name.replace(', ', '-').replace(' ', '-')}-{seed}"
            say(f"{name}, seed {seed}")
            shards = TABLE.prepare(config.work, seed).shards
            how = ExplainConfig(
                checkpoint=backbone, shards=shards, out=out, steps=config.steps, seed=seed
            )
            explain(replace(how, **settings), LocalContext(torch.device("cpu")))  # type: ignore[arg-type]
            yield name, f"explain:weights={out}"


def measure(config: MapsConfig, seed: int, name: str, source: str) -> None:
    """Score a source on both halves and record it, unless it is recorded."""
    options: Options = {"epochs": config.epochs, "steps": config.steps}
    if run_key(NAME, name, seed, options) in read_records(config.records):
        return
    folder, began, figures = shared_photographs() / "saliency_ecssd", time.process_time(), {}
    for half in HALVES:
        pairs, _ = pair_up(folder / "images", folder / "masks", half=half)
        scores, _ = score_sources({name: parse_saliency_source(source)}, pairs)
        quality = scores[name].quality
        figures |= {f"{half} {column}": float(getattr(quality, column)) for column in COLUMNS}
    record: Record = {"table": NAME, "arm": name, "seed": seed, "options": options}
    record |= {"figures": figures, "torch": torch.__version__, "commit": commit_here()}
    record |= {"processor": processor(), "date": datetime.now(UTC).isoformat(timespec="seconds")}
    append_record(config.records, record | {"cpu_seconds": round(time.process_time() - began, 1)})


def best(records: list[Record], names: list[str], seed: int) -> str:
    """The one of the highest AUC on the half for choosing."""
    found = {r["arm"]: r["figures"]["choose auc"] for r in records if r["seed"] == seed}
    return max(names, key=lambda name: found[name])


def run(config: MapsConfig) -> None:
    """All sources of the first seed, and the chosen ones of the others."""
    first, wanted = config.seeds[0], [*LEARNED, *EXPLAINERS]
    for name in FIXED:
        measure(config, first, name, name)
    for seed in config.seeds:
        for name, source in sources_of(config, seed, wanted):
            measure(config, seed, name, source)
        records = list(read_records(config.records).values())
        wanted = [best(records, list(names), first) for names in (LEARNED, EXPLAINERS)]


def report(records: list[Record]) -> Iterator[str]:
    """A Markdown table of the report half: means over the seeds, and their t intervals of 95 %."""
    yield f"| source | seeds | {' | '.join(COLUMNS)} | AUC on the half for choosing |"
    yield "|---" * (3 + len(COLUMNS)) + "|"
    for arm in dict.fromkeys(record["arm"] for record in records):
        runs = [record["figures"] for record in records if record["arm"] == arm]
        keys = [*(f"report {column}" for column in COLUMNS), "choose auc"]
        cells = words(np.array([[100 * figures[key] for key in keys] for figures in runs]))
        yield f"| {arm} | {len(runs)} | {' | '.join(cells)} |"


if __name__ == "__main__":
    os.environ["OMP_NUM_THREADS"] = "1"
    os.nice(19)
    torch.set_num_threads(1)
    asked = parse(MapsConfig, NAME, description=__doc__)
    if not asked.report:
        run(replace(asked, work=asked.work.absolute()))
    print("\n".join(report(list(read_records(asked.records).values()))))
