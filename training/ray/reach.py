"""Whether a node of a cluster reaches a run's folders: the same shards, the same output.

The driver writes a token, a small file, into the run's folder, and every node looks for it. (This
file imports little, because a node that is asked starts a process for it.)
"""

import hashlib
import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from pipeline.core.errors import JobError, write_error
from pipeline.shardset.manifest import check_shards, load_dataset_info
from pipeline.shardset.schema import DATASET_FILE
from pipeline.storage.storage import Location, open_store

SETTLE_SECONDS = 5.0
"""How long a network file system may take to show a new file on another node."""


def digests_of(roots: Sequence[Location]) -> dict[Location, str]:
    """The digest of each shard set's ``dataset.json``; of a folder of images, an empty one."""
    return {root: _digest(root) for root in roots}


@contextmanager
def token_in(out: Path) -> Iterator[Path]:
    """A token in the run's folder while the block runs; leaves no trace.

    Raises:
        InputError: the folder cannot be written to.
    """
    token = out / f".reach-{secrets.token_hex(8)}"
    made = [folder for folder in (out, *out.parents) if not folder.exists()]
    try:
        out.mkdir(parents=True, exist_ok=True)
        token.write_text("")
    except OSError as error:
        raise write_error(str(out), error) from error
    try:
        yield token
    finally:
        for path in out.glob(f"{token.name}*"):
            path.unlink(missing_ok=True)
        for folder in made:
            with suppress(OSError):  # not empty: something else is there by now
                folder.rmdir()


def look(token: Path, node: str, digests: Mapping[Location, str]) -> str | None:
    """Called on a node: returns what it does not reach of a token's folder and shards, or None."""
    for root, digest in digests.items():
        try:
            if not digest and not open_store(root).is_there():
                return f"there is no {root} there"
            if digest:
                check_shards(root, load_dataset_info(root))
                if _digest(root) != digest:
                    return f"{root} holds another shard set there than here"
        except JobError as error:
            return str(error)
    deadline = time.monotonic() + SETTLE_SECONDS
    while not token.exists():
        if time.monotonic() > deadline:
            return f"{token.parent} is not the folder there that it is here"
        time.sleep(0.1)
    try:
        token.with_name(f"{token.name}-{node}").write_text("")
    except OSError as error:
        return f"{token.parent} cannot be written to there ({error.strerror or error})"
    return None


def _digest(root: Location) -> str:
    try:
        return hashlib.sha256(open_store(root).read(DATASET_FILE)).hexdigest()
    except FileNotFoundError:
        return ""
