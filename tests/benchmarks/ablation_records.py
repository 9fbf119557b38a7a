"""Finished runs of the ablation: a line of JSON each, with every image's right or wrong."""

import base64
import fcntl
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.benchmarks.ablation_table import Options, plain

Record = dict[str, Any]
Right = NDArray[np.bool_]
MEASURES = {
    "knn": "20-NN",
    "probe": "probe",
    "tuned 1 %": "fine-tuned with 1 %",
    "tuned 10 %": "fine-tuned with 10 %",
    "retrieval": "retrieval",
}
"""Name in the records -> title."""


def append_record(path: Path, record: Record) -> None:
    """Add a finished run; locked and flushed, so that processes do not mix their lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+b", buffering=0) as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        torn = file.seek(0, os.SEEK_END) > 0 and not path.read_bytes().endswith(b"\n")
        file.write(b"\n" * torn + json.dumps(record).encode() + b"\n")
        os.fsync(file.fileno())


def read_records(path: Path) -> dict[str, Record]:
    """The finished runs by `run_key`, in the order of the file; of the same run twice, the first.

    A torn line, of a process that was killed while it wrote, is left out.
    """
    found: dict[str, Record] = {}
    for line in path.read_bytes().splitlines() if path.exists() else []:
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            continue
        key = run_key(record["table"], record["arm"], record["seed"], record["options"])
        found.setdefault(key, record)
    return found


def run_key(table: str, arm: str, seed: int, options: Options) -> str:
    """What makes two runs the same."""
    # Tuples become lists in JSON.
    return f"{table}/{arm}/{seed}/{plain(json.loads(plain(options)))}"


def packed(right_V: Right) -> str:
    """Right or wrong of V images as base64 of their bits, the first image's highest."""
    return base64.b64encode(np.packbits(right_V).tobytes()).decode()


def unpacked(bits: str, num_images: int) -> Right:
    """The inverse of `packed`: bool [V]."""
    found = np.unpackbits(np.frombuffer(base64.b64decode(bits), np.uint8), count=num_images)
    return found.astype(np.bool_)


def right_of(record: Record, column: str, measure: str) -> Right:
    """Which images of a column (`usual`, say) a measure (`knn`, `probe`) had right: bool [V]."""
    return unpacked(record["right"][column][measure], record["num_images"][column])
