"""Made-up sweeps: the files that a sweep leaves, with an objective that follows a known rule."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

PLAN: dict[str, Any] = {
    "version": 1,
    "name": "mask_ratio",
    "objective": {"name": "knn", "mode": "max"},
    "space": {
        "masks.query_ratio": {"kind": "grid", "values": ["0.05:0.25", "0.2:0.4", 0.4]},
        "optim.lr": {"kind": "log_uniform", "low": 0.001, "high": 0.1},
        "fill": {"kind": "choice", "values": ["mean", "blur", "high_pass"]},
        "epochs": {"kind": "choice", "values": [4, 8]},
    },
    "search": "random",
    "seed": 0,
    "num_trials": 24,
    "scheduler": {"name": "asha", "grace_epochs": 1, "reduction_factor": 2},
    "config": {},
    "data_digest": "d" * 64,
    "val_images": 1000,
    "fingerprint": "f" * 64,
}


def trials(number: int) -> list[dict[str, Any]]:
    """Rows of trials whose kNN follows the learning rate, and the fill a little."""
    rng = np.random.default_rng(0)
    rows = []
    for trial in range(number):
        rate = float(10 ** rng.uniform(-3, -1))
        fill = str(rng.choice(["mean", "blur", "high_pass"]))
        ratio = str(rng.choice(["0.05:0.25", "0.2:0.4", "0.4"]))
        status = ("finished", "stopped")[trial % 2]
        knn = 45 - 12 * (np.log10(rate) + 1.8) ** 2 + 2 * (fill == "blur") + rng.normal(0, 0.8)
        failed = trial == 5
        rows.append(
            {
                "trial": trial,
                "status": "failed" if failed else status,
                "epochs": 8.0 if status == "finished" else 2.0,
                "objective": None if failed else float(knn - 4 * (status == "stopped")),
                "seconds": 40.0 + 10 * trial,
                "run": f"trials/{trial:04d}",
                "message": "the loss is no longer finite at step 12 (nan)" if failed else None,
                "metric.knn": None if failed else float(knn),
                "metric.knn_images": 1000.0,
                "metric.loss": float(6 - knn / 20),
                "masks.query_ratio": ratio,
                "optim.lr": rate,
                "fill": fill,
                "space.epochs": int(rng.choice([4, 8])),
            }
        )
    return rows


def write_sweep(
    folder: Path,
    *,
    num_trials: int = 24,
    plan: dict[str, Any] | None = None,
    rows: list[dict[str, Any]] | None = None,
    finished: bool = True,
) -> Path:
    """Write a sweep; without trials it has no table yet.

    Args:
        folder: of the sweep.
        num_trials: made up.
        plan: what differs in sweep.json.
        rows: instead of the made-up ones.
        finished: whether it came to its end.
    """
    folder.mkdir(parents=True)
    text = json.dumps(PLAN | {"num_trials": num_trials} | (plan or {}))
    (folder / "sweep.json").write_text(text)
    rows = trials(num_trials) if rows is None else rows
    if rows:
        table = pa.Table.from_pylist(rows).replace_schema_metadata({"salmask": text})
        pq.write_table(table, folder / "results.parquet")
    if finished:
        summary = {
            "counts": {},
            "best": _best(rows, plan or {}),
            "rank_correlation": {"heldout_loss with knn": -0.93},
            "seconds": 1.0,
        }
        (folder / "summary.json").write_text(json.dumps(summary))
    return folder


def _best(rows: list[dict[str, Any]], plan: dict[str, Any]) -> dict[str, Any] | None:
    """What ``summary.json`` says of the best trial; by hand, of an objective that is to be high."""
    scored = [row for row in rows if row["status"] == "finished" and row["objective"] is not None]
    if not scored or plan.get("objective", PLAN["objective"])["mode"] == "min":
        return None
    objective = max(row["objective"] for row in scored)
    tied = [row["trial"] for row in scored if row["objective"] == objective]
    half = 1.96 * (objective * (100 - objective) / PLAN["val_images"]) ** 0.5
    return {
        "trial": tied[0],
        "objective": objective,
        "interval": [objective - half, objective + half],
        "tied": tied,
        "values": {},
    }
