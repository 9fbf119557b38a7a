r"""What backbones of an ablation are worth elsewhere: other photographs, few labels, retrieval.

    python -m tests.benchmarks.elsewhere --work runs/ablation --seeds 0 1 2
    python -m tests.benchmarks.elsewhere --report

Scores the backbones that `python -m tests.benchmarks.ablation photographs` left in the same folder:

- flowers: 17 kinds of flowers that no run has seen, by 20-NN, by the probe and by fine-tuning with
  a tenth of the labels;
- usual and changed: the photographs of the ablation, by fine-tuning with 1 and 10 % of the labels,
  five draws each;
- scenes: objects of ECSSD on backgrounds of other pictures (`scenes.py`). Share of queries whose
  nearest neighbour is the same object on another background, not another object on the same one.

A finished backbone is a line of JSON in the records and is never scored again.
"""

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch

from jobs.cli import main, parse
from pipeline.core.progress import say
from tests.benchmarks.ablation import RECORDS, AblationConfig, planned
from tests.benchmarks.ablation_records import Right, append_record, packed, read_records, run_key
from tests.benchmarks.ablation_report import report
from tests.benchmarks.ablation_run import Run, prepared_data, processor
from tests.benchmarks.ablation_table import Data, Options
from tests.benchmarks.photographs import shared_photographs
from tests.benchmarks.scenes import NUM_OTHERS, make_scenes, same_object
from training.evaluate.case import Case
from training.evaluate.config import EvaluateConfig, FinetuneConfig
from training.evaluate.encoders import NamedEncoder, load_encoders
from training.evaluate.frozen import knn_predict, linear_probe
from training.evaluate.labelled import LabelledImages, open_labelled
from training.evaluate.sgd import balanced_subset, tuned_logits

NAME, NUM_DRAWS = "elsewhere", 5
DRAWN = f", {NUM_DRAWS} draws"
"""End of the columns that hold the images of every draw, one after the other."""
ARMS = ("none, cost of exchange", "exchange, cost of object exchange")
"""Both of 1.5 times the steps."""
Scores = dict[str, dict[str, Right]]
"""Right or wrong by column and measure."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """Which backbones are scored, or what is reported.

    Attributes:
        table: of the ablation; its test sets must be named usual and changed.
        work: folder of the ablation's data and runs.
        arms: of the table; the first is the one that others are compared with.
        seeds: of the runs.
        records: file of what is scored.
        report: print what is recorded, and score nothing.
    """

    table: str = "photographs"
    work: Path = Path("runs/ablation")
    arms: tuple[str, ...] = ARMS
    seeds: tuple[int, ...] = (0, 1, 2)
    records: Path = RECORDS / f"{NAME}.jsonl"
    report: bool = False


def options_of(run: Run) -> Options:
    """What makes two scored backbones the same."""
    return {"table": run.table, **run.options}


def joined(folder: Path, sets: Mapping[str, Path]) -> Path:
    """Class folders with links to the images of several sets, whose names begin with the set's."""
    for name, source in sets.items():
        for file in sorted(source.glob("*/*")):
            link = folder / file.parent.name / f"{name}-{file.name}"
            link.parent.mkdir(parents=True, exist_ok=True)
            if not link.is_symlink():
                link.symlink_to(file.absolute())
    return folder


def few_labels(encoder: NamedEncoder, train: Path, val: Path, share: float, seed: int) -> Right:
    """Right or wrong [D, V] of networks that were fine-tuned on draws of a share of the labels."""
    settings = FinetuneConfig(shares=(share,), draws=NUM_DRAWS)
    config = EvaluateConfig(checkpoint=("",), train=train, val=val, finetune=settings, local=True)
    case = Case(encoder, open_labelled(train), open_labelled(val), config)
    labels_V = case.val.labels()
    rows = []
    for draw in range(NUM_DRAWS):
        chosen = balanced_subset(case.train.labels(), share, seed=seed, draw=draw)
        rows.append(tuned_logits(case, chosen).argmax(dim=1).cpu().numpy() == labels_V)
    return np.stack(rows)


def score(backbone: Path, data: Data, work: Path, seed: int) -> Scores:
    """Every figure of one backbone; the seed draws the labels of fine-tuning."""
    cpu = torch.device("cpu")
    (encoder,) = load_encoders([str(backbone)], encoder="query", seed=0, device=cpu, num_threads=1)
    flowers = shared_photographs() / "flowers17"
    scores: Scores = {"flowers": dict(frozen(encoder, flowers / "train", flowers / "val"))}
    tuned_DV = few_labels(encoder, flowers / "train", flowers / "val", 0.1, seed)
    scores[f"flowers{DRAWN}"] = {"tuned 10 %": tuned_DV.ravel()}
    both = joined(work / "usual-and-changed", data.tests)
    is_of = {name: starts_with(open_labelled(both), f"{name}-") for name in data.tests}
    for share in (0.01, 0.1):
        tuned_DV = few_labels(encoder, data.shards, both, share, seed)
        for name, chosen_V in is_of.items():
            found = scores.setdefault(f"{name}{DRAWN}", {})
            found[f"tuned {100 * share:.0f} %"] = tuned_DV[:, chosen_V].ravel()
    source = shared_photographs() / "saliency_ecssd"
    scenes = open_labelled(make_scenes(source / "images", source / "masks", work / "scenes"))
    scores["scenes"] = {"retrieval": same_object(*encoder.features(scenes))}
    return scores


def starts_with(images: LabelledImages, prefix: str) -> Right:
    """Which files' names start like that."""
    names, _ = images.sources
    return np.array([Path(name).name.startswith(prefix) for name in names])


def frozen(encoder: NamedEncoder, train: Path, val: Path) -> Iterator[tuple[str, Right]]:
    """Right or wrong by 20-NN and by the probe, features frozen."""
    (bank, labels), (features, wanted) = (
        encoder.features(open_labelled(folder)) for folder in (train, val)
    )
    classes = int(labels.max()) + 1
    knn = knn_predict(bank, labels, features, k=20, temperature=0.07, num_classes=classes)
    yield "knn", (knn == wanted).numpy()
    probe = linear_probe(bank, labels, features, wanted, num_classes=classes).predicted_V
    yield "probe", (probe == wanted).numpy()


def record_of(run: Run) -> None:
    """Score the backbone of a run and append its record."""
    say(f"scoring {run}")
    began, work = time.process_time(), run.work / "data" / NAME
    scores = score(run.folder / "backbone", prepared_data(run), work, run.seed)
    append_record(
        run.records,
        {
            "table": NAME,
            "arm": run.arm,
            "seed": run.seed,
            "options": options_of(run),
            "figures": {
                c: {name: round(100 * float(right.mean()), 3) for name, right in found.items()}
                for c, found in scores.items()
            },
            "num_images": {c: len(next(iter(found.values()))) for c, found in scores.items()},
            # Equal where all seeds share the images: every seed draws its own labels.
            "images": {c: str(run.seed) if c.endswith(DRAWN) else "" for c in scores},
            "right": {c: {n: packed(r) for n, r in found.items()} for c, found in scores.items()},
            "cpu_seconds": round(time.process_time() - began, 1),
            "commit": run.commit,
            "processor": processor(),
            "torch": torch.__version__,
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
        },
    )


def run() -> int:
    """Score what is there and not recorded, or print the tables."""
    config = parse(Config, "python -m tests.benchmarks.elsewhere", description=__doc__)
    ablation = AblationConfig(
        table=config.table,
        work=config.work,
        arms=config.arms,
        seeds=config.seeds,
        records=config.records,
    )
    for one in [] if config.report else planned(ablation):
        if run_key(NAME, one.arm, one.seed, options_of(one)) in read_records(config.records):
            continue
        if not (one.folder / "backbone").is_dir():
            say(f"{one} has no backbone in {config.work}: train it with tests.benchmarks.ablation")
            continue
        record_of(one)
    print(report(list(read_records(config.records).values()), config.arms[0]))
    print(f"\nChance of the retrieval: {100 / (1 + NUM_OTHERS):.1f}.")
    return 0


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(run)
