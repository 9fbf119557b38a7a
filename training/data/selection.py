"""A selection: the images of a shard set that a pretraining uses. Imports no torch.

It is a folder with `selection.parquet`: one row per chosen image, and in the file's metadata the
digest of the pool and how the images were chosen. No image is copied.
"""

import hashlib
import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipeline.core.errors import InputError, check, first_ten
from pipeline.shardset.manifest import RECORD_KEY, DatasetInfo
from pipeline.storage.atomic import atomic_file

SELECTION_FILE = "selection.parquet"


class Selection(NamedTuple):
    """The numbers of the chosen images, rising rows of the pool, and the pool's plan digest."""

    numbers: NDArray[np.int64]
    pool: str

    @property
    def digest(self) -> str:
        """Of the pool and the chosen images."""
        content = self.pool.encode() + self.numbers.astype("<i8").tobytes()
        return hashlib.sha256(content).hexdigest()


def write_selection(folder: Path, chosen: pa.Table, about: dict[str, Any]) -> Selection:
    """Write a table with a column `number`; `about`, JSON values, has the digest of the `pool`."""
    chosen = chosen.replace_schema_metadata({RECORD_KEY: json.dumps(about)})
    with atomic_file(folder / SELECTION_FILE) as file:
        pq.write_table(chosen, file)
    return read_selection(folder)


def read_selection(folder: Path, info: DatasetInfo | None = None) -> Selection:
    """Read a selection; InputError: there is none, or it is not of the shards with that info."""
    check(not folder.is_file(), f"{folder} is a file: give the folder that jobs/choose.py wrote")
    try:
        table = pq.read_table(folder / SELECTION_FILE)
        if RECORD_KEY not in (table.schema.metadata or {}):
            raise ValueError(
                f"the columns of its {SELECTION_FILE} are {first_ten(table.schema.names)}"
            )
        pool = json.loads(table.schema.metadata[RECORD_KEY])["pool"]
    except (OSError, pa.ArrowException, TypeError, KeyError, ValueError) as error:
        raise InputError(
            f"{folder} has no selection (jobs/choose.py makes one): {error}"
        ) from error
    check(
        info is None or info.plan_digest == pool,
        f"the selection {folder} is of another pool (plan digest {pool[:12]}) than --shards: give "
        "the shards that it was chosen from",
    )
    return Selection(table["number"].to_numpy(), pool)
