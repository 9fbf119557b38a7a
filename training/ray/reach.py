"""Whether every node of a cluster reaches a run's folders: the same shards, the same output.

One process writes a token, a small file, into the run's folder; every node looks for it and writes
an answer beside it. All of them are removed afterwards. (This file imports little, because a node
that is asked starts a process for it.)
"""

import hashlib
import secrets
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from pipeline.core.errors import JobError, write_error
from pipeline.shardset.manifest import check_shards, load_dataset_info
from pipeline.shardset.schema import DATASET_FILE
from pipeline.storage.storage import Location, open_store

SETTLE_SECONDS = 5.0
"""How long a network file system may take to show a new file on another node."""


@dataclass(frozen=True)
class Places:
    """What every node must reach.

    Attributes:
        out: the run's folder.
        shards: the shard sets, with the digest of each one's ``dataset.json``; folders of images,
            with an empty one.
    """

    out: Path
    shards: dict[Location, str]


def places(out: Path, roots: Sequence[Location]) -> Places:
    """A run's folder and its shard sets as this process sees them."""
    return Places(out, {root: _digest(root) for root in roots})


@contextmanager
def token_in(out: Path) -> Iterator[str]:
    """Puts a token into the run's folder while the block runs; leaves no trace.

    Raises:
        InputError: the folder cannot be written to.
    """
    token = f".reach-{secrets.token_hex(8)}"
    made = [folder for folder in (out, *out.parents) if not folder.exists()]
    try:
        out.mkdir(parents=True, exist_ok=True)
        (out / token).write_text(token)
    except OSError as error:
        raise write_error(str(out), error) from error
    try:
        yield token
    finally:
        for path in out.glob(f"{token}*"):
            path.unlink(missing_ok=True)
        for folder in made:
            with suppress(OSError):  # not empty: something else is there by now
                folder.rmdir()


def look(wanted: Places, token: str, name: str) -> str | None:
    """Called on a node: checks that everything is there, and answers the token.

    Args:
        wanted: what must be reached.
        token: in the run's folder.
        name: of the node, fit for a file's name.

    Returns:
        What is wrong there, or None.
    """
    for root, digest in wanted.shards.items():
        try:
            if not digest and not open_store(root).is_there():
                return f"there is no {root} there"
            if digest:
                check_shards(root, load_dataset_info(root))
                if _digest(root) != digest:
                    return f"{root} holds another shard set there than here"
        except JobError as error:
            return str(error)
    if not _soon_there(wanted.out / token):
        return f"{wanted.out} is not the folder there that it is here"
    try:
        (wanted.out / f"{token}-{name}").write_text(name)
    except OSError as error:
        return f"{wanted.out} cannot be written to there ({error.strerror or error})"
    return None


def has_answered(wanted: Places, token: str, name: str) -> bool:
    """Whether the answer of a node that has looked is seen here."""
    return _soon_there(wanted.out / f"{token}-{name}")


def _digest(root: Location) -> str:
    try:
        return hashlib.sha256(open_store(root).read(DATASET_FILE)).hexdigest()
    except FileNotFoundError:
        return ""


def _soon_there(path: Path) -> bool:
    deadline = time.monotonic() + SETTLE_SECONDS
    while not path.exists():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True
