"""Whether every node of a cluster reaches a run's folders: the same shards, the same output.

Works by a token: a small file that one process puts into the run's folder, that every node looks
for, and beside which every node puts an answer. All of it is removed afterwards. (It imports
little: a node that is asked starts a process for it.)
"""

import hashlib
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from pipeline.core.errors import InputError, write_error
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
    """Called on a node: looks whether everything is there, and answers the token.

    Args:
        wanted: what must be reached.
        token: in the run's folder.
        name: of the node, fit for a file's name.

    Returns:
        What is wrong there, or None.
    """
    for root, digest in wanted.shards.items():
        wrong = _wrong(root, digest)
        if wrong is not None:
            return wrong
    if not _soon((wanted.out / token).exists):
        return f"{wanted.out} is not the folder there that it is here"
    try:
        (wanted.out / f"{token}-{name}").write_text(name)
    except OSError as error:
        return f"{wanted.out} cannot be written to there ({error.strerror or error})"
    return None


def has_answered(wanted: Places, token: str, name: str) -> bool:
    """Whether the answer of a node that has looked is seen here."""
    return _soon((wanted.out / f"{token}-{name}").exists)


def _wrong(root: Location, digest: str) -> str | None:
    if not digest:
        return None if open_store(root).is_there() else f"there is no {root} there"
    try:
        check_shards(root, load_dataset_info(root))
    except InputError as error:
        return str(error)
    return None if _digest(root) == digest else f"{root} holds another shard set there than here"


def _digest(root: Location) -> str:
    try:
        return hashlib.sha256(open_store(root).read(DATASET_FILE)).hexdigest()
    except FileNotFoundError:
        return ""


def _soon(seen: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + SETTLE_SECONDS
    while not seen():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True
