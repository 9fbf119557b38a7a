r"""Photographs of ten classes, then flowers: what is forgotten with and without replay and anchor.

    python -m tests.benchmarks.stream --work runs/stream --seeds 0 1 2
    python -m tests.benchmarks.stream --report

imagenette160, then flowers17, at 48 px with the network of tables/photographs.py; 20-NN on each
set's own validation photographs. The first stage of a seed is the same for all arms and is trained
once. Arms without anchor also train on both sets at once, for as many steps. A finished arm of a
seed is a line of JSON in the records and is never run again; the same command goes on after an
interruption. Seeds from 100 on are for choosing settings: they are scored on a fifth of the
training photographs, which is held out of the votes.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from jobs.cli import main, parse
from jobs.stream_options import read_options
from pipeline.core.errors import InputError, Stopped
from pipeline.core.progress import say
from pipeline.precompute.config import PrecomputeConfig
from pipeline.precompute.run import run_precompute
from tests.benchmarks.ablation import RECORDS, commit_here
from tests.benchmarks.ablation_records import append_record, read_records, run_key
from tests.benchmarks.ablation_run import HARNESS, processor
from tests.benchmarks.ablation_table import FIRST_CHOICE_SEED, Options, command_line
from tests.benchmarks.photographs import shared_photographs
from tests.benchmarks.tables.photographs import TABLE
from training.core.context import LocalContext
from training.engine.local import launch
from training.evaluate.intervals import t_quantile
from training.stream.config import Stream
from training.stream.figures import measure
from training.stream.forgetting import Forgetting
from training.stream.run import run_stream

SETS = ("imagenette160", "flowers17")
EPOCHS = 40  # 75 steps an epoch on the first set, 14 on the second: 3,560 in all without replay
ARMS: dict[str, Options] = {
    "none": {"replay.share": 0.0},
    "replay": {"replay.share": 0.2},
    "mas": {"replay.share": 0.0, "anchor.kind": "mas"},
    "replay, mas": {"replay.share": 0.2, "anchor.kind": "mas"},
}
NAME = "stream"
COLUMNS = ("imagenette after 0", "imagenette after 1", "flowers after 1", "forgotten", "gap")


@dataclass(frozen=True, kw_only=True)
class Config:
    """Which arms are run, or what is reported.

    Attributes:
        work: folder of shards and runs; none of it is needed afterwards.
        seeds: of weights and draws.
        arms: some of none, replay, mas, and "replay, mas"; none: all.
        strength: of the anchor.
        epochs: of either stage.
        records: file of the finished runs.
        report: print what is recorded, and run nothing.
    """

    work: Path = Path("runs/stream")
    seeds: tuple[int, ...] = (0, 1, 2)
    arms: tuple[str, ...] = tuple(ARMS)
    strength: float = 0.03
    epochs: int = EPOCHS
    records: Path = RECORDS / f"{NAME}.jsonl"
    report: bool = False

    def options(self, arm: str) -> Options:
        """The options of an arm."""
        if arm not in ARMS:
            raise InputError(f"unknown arm {arm!r}: choose from {', '.join(ARMS)}")
        held: Options = {"anchor.strength": self.strength} if "anchor.kind" in ARMS[arm] else {}
        return HARNESS | TABLE.common | {"epochs": self.epochs} | ARMS[arm] | held


def stream_of(config: Config, arm: str, seed: int) -> Stream:
    """The stream of an arm; its first stage is a link to the seed's."""
    shards, runs = config.work / "shards", config.work / f"seed-{seed}-epochs-{config.epochs}"
    for name in SETS:
        for split in ("train", "val"):
            data, out = shared_photographs() / name / split, shards / f"{name}-{split}"
            run_precompute(PrecomputeConfig(data=data, out=out, saliency="centre"))  # no masks here
    strength = config.options(arm).get("anchor.strength", "")
    out, first = runs / f"{arm.replace(', ', '-')}{strength}", runs / "stage-00"
    out.mkdir(parents=True, exist_ok=True)
    first.mkdir(exist_ok=True)
    if not (out / first.name).is_symlink():
        (out / first.name).symlink_to(Path("..") / first.name)
    words = [*command_line(config.options(arm)), f"--out={out.absolute()}", f"--seed={seed}"]
    for option, split in (("--stages", "train"), ("--val", "val")):
        if split == "train" or seed < FIRST_CHOICE_SEED:
            words += [option, *(str(shards / f"{name}-{split}") for name in SETS)]
    stream, _ = read_options(words, "")
    return replace(stream, joint="anchor.kind" not in ARMS[arm])


def run_arm(config: Config, arm: str, seed: int) -> bool:
    """Run, or go on with, an arm of a seed and record it; False if it was asked to stop."""
    say(f"{arm}, seed {seed}")
    started = time.process_time()
    here = LocalContext(torch.device("cpu"))
    stream = stream_of(config, arm, seed)
    table = run_stream(stream, partial(launch, context=here), partial(measure, device=here.device))
    if table is None:
        return False
    append_record(
        config.records,
        {
            "table": NAME,
            "arm": arm,
            "seed": seed,
            "options": config.options(arm),
            "values": table.values_ST.tolist(),
            "joint": None if table.joint_T is None else table.joint_T.tolist(),
            "cpu_seconds": round(time.process_time() - started, 1),
            "commit": commit_here(),
            "processor": processor(),
            "torch": torch.__version__,
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
        },
    )
    return True


def figures(record: dict[str, Any], joint: list[float] | None) -> NDArray[np.float64]:
    """The `COLUMNS` of a record; the gap of both sets' mean, NaN without a joint run."""
    values = np.array(record["values"])
    joint_T = None if joint is None else np.array(joint)
    table = Forgetting(SETS, ("knn", "knn"), values, joint_T)
    gap = np.nan if table.gap_T is None else float(table.gap_T.mean())
    forgotten = table.forgotten_ST[-1, 0]
    return np.array([values[0, 0], values[1, 0], values[1, 1], forgotten, gap])


def words(values_SC: NDArray[np.float64], sign: str = "") -> Iterator[str]:
    """The mean over seeds of each column, and with two or more the t interval of 95 %."""
    for column in values_SC.T:
        mean, seeds = float(column.mean()), len(column)
        text = f"{mean:{sign}.1f}"
        if seeds > 1:
            half = t_quantile(seeds - 1) * float(column.std(ddof=1)) / seeds**0.5
            text += f" ({mean - half:{sign}.1f} to {mean + half:{sign}.1f})"
        yield text


def report(records: list[dict[str, Any]]) -> Iterator[str]:
    """Markdown: every arm, and its paired differences from the arm without replay and anchor."""
    arms: dict[str, dict[int, NDArray[np.float64]]] = {}
    joints = {(r["options"]["replay.share"], r["seed"]): r["joint"] for r in records if r["joint"]}
    for record in records:
        joint = joints.get((record["options"]["replay.share"], record["seed"]))
        strength = record["options"].get("anchor.strength")
        name = record["arm"] if strength is None else f"{record['arm']} {strength:g}"
        arms.setdefault(name, {})[record["seed"]] = figures(record, joint)
    yield f"| arm | seeds | {' | '.join(COLUMNS)} |"
    yield "|---" * (2 + len(COLUMNS)) + "|"
    for name, runs in arms.items():
        others = {f"{name} minus none": arms["none"]} if "none" in arms.keys() - {name} else {}
        for shown, base in ({name: None} | others).items():
            seeds = sorted(runs.keys() & (runs if base is None else base).keys())
            if not seeds:
                continue
            rows = [runs[seed] - (0 if base is None else base[seed]) for seed in seeds]
            cells = words(np.stack(rows), "" if base is None else "+")
            yield f"| {shown} | {', '.join(map(str, seeds))} | {' | '.join(cells)} |"
    yield "\n20-NN top-1 in %, mean and 95 % t interval over the seeds; the gap is how far the"
    yield "joint run is ahead after as many steps, mean of both sets."


def run() -> int:
    """Run what is asked for and not recorded, or print the tables."""
    config = parse(Config, "python -m tests.benchmarks.stream")
    records = read_records(config.records)
    wanted = [] if config.report else [(arm, seed) for seed in config.seeds for arm in config.arms]
    for arm, seed in wanted:
        is_done = run_key(NAME, arm, seed, config.options(arm)) in records
        if not is_done and not run_arm(config, arm, seed):
            return Stopped.exit_code
    for title, choice in (("Reported seeds", False), ("Seeds for choosing settings", True)):
        some = [r for r in read_records(config.records).values()
                if (r["seed"] >= FIRST_CHOICE_SEED) == choice]  # fmt: skip
        if some:
            print(f"### {title}\n", *report(some), sep="\n")
    return 0


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(run)
