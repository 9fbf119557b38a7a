"""Shards of a bucket on the local disk: fetched whole, ahead of use, within a limit of bytes.

The files are named by their digests and appear only when they are whole and right, so any number of
processes, runs and shard sets of a node share a cache.
"""

import fcntl
import hashlib
import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from pipeline.core.errors import InputError
from pipeline.shardset.manifest import ShardInfo
from pipeline.shardset.schema import shard_file
from pipeline.storage.atomic import atomic_file, temporaries
from pipeline.storage.storage import Store, reason

FETCHED_AT_ONCE = 4
"""Shards that a process fetches at the same time."""
CHUNK = 8 << 20
GIB = 1 << 30


def default_cache_folder() -> Path:
    """XDG_CACHE_HOME/salmask/shards, or ~/.cache/salmask/shards."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "salmask" / "shards"


@dataclass(frozen=True, kw_only=True)
class CacheConfig:
    """Where shards of a bucket lie while they are read; shards on a local disk are read there.

    Attributes:
        folder: on a local disk of every node; none: ~/.cache/salmask/shards.
        limit_gib: GiB, above 0: when the cache is larger, the shards that were used longest ago
            go.
    """

    folder: Path | None = None
    limit_gib: float = 64.0

    def __post_init__(self) -> None:
        if self.limit_gib <= 0:
            raise InputError(f"cache.limit_gib {self.limit_gib} must be above 0")


class ShardCache:
    """The shards of a store that are on the local disk, and those that are on their way.

    Pickles; can be used from several threads.

    Args:
        store: where the shards come from.
        config: where they go.
    """

    def __init__(self, store: Store, config: CacheConfig) -> None:
        self._store = store
        self._folder = config.folder or default_cache_folder()
        self._limit = int(config.limit_gib * GIB)
        self._begin()

    def _begin(self) -> None:
        self._lock = threading.Lock()
        self._asked: set[str] = set()
        self._waiting: SimpleQueue[ShardInfo] = SimpleQueue()
        self._threads: list[threading.Thread] = []

    def __getstate__(self) -> dict[str, Any]:
        return {"_store": self._store, "_folder": self._folder, "_limit": self._limit}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._begin()

    def check_fits(self, shards: Sequence[ShardInfo], count: int) -> None:
        """Raises ``InputError`` where the limit does not hold that many shards at once."""
        needed = sum(sorted((shard.num_bytes for shard in shards), reverse=True)[:count])
        if needed > self._limit:
            raise InputError(
                f"cache.limit_gib {self._limit / GIB:.3g} is too small for {self._store.url}: the "
                f"{count} shards that are read at the same time take {needed / GIB:.2f} GiB"
            )

    def ahead(self, shards: Sequence[ShardInfo]) -> None:
        """Begins to fetch shards in this order, where that has not begun yet; does not wait."""
        with self._lock:
            new = [shard for shard in shards if shard.sha256 not in self._asked]
            self._asked = {shard.sha256 for shard in shards}  # others may have to go
            for shard in new:
                self._waiting.put(shard)
            while new and len(self._threads) < FETCHED_AT_ONCE:
                # Daemons: a process ends without waiting for shards that nobody will read.
                self._threads.append(threading.Thread(target=self._fetch_waiting, daemon=True))
                self._threads[-1].start()

    def open(self, shard: ShardInfo) -> int:
        """A descriptor of the shard on the local disk; waits until it is there.

        Raises:
            InputError: it cannot be fetched, is not what dataset.json says, or does not fit on the
                disk.
        """
        path = self._folder / f"{shard.sha256}.tar"
        while True:
            # Not there yet, or made to go just now; what else is wrong, the lock says.
            with suppress(FileNotFoundError, NotADirectoryError):
                return self._open_now(path)
            with self._locked(shard.sha256):
                if not path.exists():
                    self._fetch(shard, path)

    def _open_now(self, path: Path) -> int:
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except PermissionError as error:
            raise InputError(
                f"{path} cannot be read: make it readable, or choose another --cache.folder"
            ) from error
        with suppress(FileNotFoundError, PermissionError):  # another user's is used as it is
            os.utime(path)
        return descriptor

    def _fetch_waiting(self) -> None:
        while True:
            with suppress(InputError):  # whoever needs it tries again, and says why it is not there
                os.close(self.open(self._waiting.get()))

    @contextmanager
    def _locked(self, sha256: str) -> Iterator[None]:
        """One process or thread at a time; one that is killed lets go."""
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            lock = self._open_lock(sha256)
        except OSError as error:
            raise self._cannot_write(sha256, error) from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
        finally:
            os.close(lock)

    def _open_lock(self, sha256: str) -> int:
        path = self._folder / f"{sha256}.lock"
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)

    def _cannot_write(self, name: str, error: OSError) -> InputError:
        return InputError(
            f"{name} cannot be written to the cache {self._folder}: {reason(error)} "
            "(choose another --cache.folder or a smaller --cache.limit-gib)"
        )

    def _fetch(self, shard: ShardInfo, path: Path) -> None:
        name = shard_file(shard.name)
        digest = hashlib.sha256()
        try:
            self._make_room(shard.num_bytes)
            with atomic_file(path, settle=False) as file, self._store.open(name) as remote:
                while chunk := remote.read(CHUNK):
                    digest.update(chunk)
                    file.write(chunk)
                if digest.hexdigest() != shard.sha256:
                    raise InputError(
                        f"shard {self._store.where(name)} is not what dataset.json says: "
                        "run jobs/precompute.py again"
                    )
        except FileNotFoundError as error:
            raise InputError(
                f"shard {self._store.where(name)} is missing: run jobs/precompute.py again"
            ) from error
        except OSError as error:
            raise self._cannot_write(name, error) from error

    def _make_room(self, num_bytes: int) -> None:
        """Removes what was used longest ago. What is open stays readable until it is closed."""
        self._sweep()
        files = []
        for path in self._folder.glob("*.tar"):
            with suppress(FileNotFoundError):
                about = path.stat()
                files.append((about.st_mtime_ns, about.st_size, path))
        excess = sum(size for _, size, _ in files) + num_bytes - self._limit
        for _, size, path in sorted(files):
            if excess <= 0:
                break
            path.unlink(missing_ok=True)
            excess -= size

    def _sweep(self) -> None:
        """Removes what killed processes left half-fetched: nobody holds its lock."""
        for orphan in temporaries(self._folder):
            lock = self._open_lock(orphan.name[1:].split(".")[0])
            try:
                with suppress(BlockingIOError):
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    orphan.unlink(missing_ok=True)
            finally:
                os.close(lock)
