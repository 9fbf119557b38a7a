"""Cache the shards of a bucket on the local disk: whole, ahead of use, within a size limit.

Files are named by their digests and appear only when complete and verified, so any number of
processes, runs and shard sets on a node can share a cache.
"""

import fcntl
import hashlib
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue

from pipeline.core.errors import InputError, JobError
from pipeline.shardset.manifest import AGAIN, ShardInfo
from pipeline.shardset.schema import shard_file
from pipeline.storage.atomic import atomic_file, temporaries
from pipeline.storage.store import Store, reason

FETCHED_AT_ONCE = 16
"""Shards that one process fetches in parallel: a request takes a while, however small it is."""
CHUNK = 8 << 20
GIB = 1 << 30


def default_cache_folder() -> Path:
    """Return XDG_CACHE_HOME/salmask/shards, or ~/.cache/salmask/shards."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "salmask" / "shards"


@dataclass(frozen=True, kw_only=True)
class CacheConfig:
    """Where shards of a bucket are cached. Shards in a local folder are not cached.

    Attributes:
        folder: on a local disk of every node; None: ~/.cache/salmask/shards.
        limit_gib: size limit in GiB, above 0. The least recently used shards are removed.
    """

    folder: Path | None = None
    limit_gib: float = 64.0

    def __post_init__(self) -> None:
        if self.limit_gib <= 0:
            raise InputError(f"cache.limit_gib {self.limit_gib} must be above 0")


class ShardCache:
    """The cached shards of a shard set. It can be used from several threads."""

    def __init__(self, store: Store, config: CacheConfig) -> None:
        self._store = store
        self._folder = config.folder or default_cache_folder()
        self._limit = int(config.limit_gib * GIB)
        self._lock = threading.Lock()
        self._asked: set[str] = set()
        self._waiting: SimpleQueue[tuple[ShardInfo, Callable[[], object]]] = SimpleQueue()
        self._threads: list[threading.Thread] = []

    def check_fits(self, shards: Sequence[ShardInfo], count: int) -> None:
        """Raise `InputError` if the cache cannot hold that many shards at once."""
        needed = sum(sorted((shard.num_bytes for shard in shards), reverse=True)[:count])
        if needed > self._limit:
            raise InputError(
                f"cache.limit_gib {self._limit / GIB:.3g} is too small for {self._store.url}: the "
                f"{count} shards that are read at the same time take {needed / GIB:.2f} GiB"
            )

    def ahead(self, shards: Mapping[ShardInfo, Callable[[], object]]) -> None:
        """Start to fetch shards, in this order, each after a call; return at once."""
        with self._lock:
            new = [shard for shard in shards if shard.sha256 not in self._asked]
            self._asked = {shard.sha256 for shard in shards}  # others may be removed
            for shard in new:
                self._waiting.put((shard, shards[shard]))
            while new and len(self._threads) < FETCHED_AT_ONCE:
                # Daemons do not keep the process from ending.
                self._threads.append(threading.Thread(target=self._fetch_waiting, daemon=True))
                self._threads[-1].start()

    def open(self, shard: ShardInfo) -> int:
        """Return a descriptor of the shard on the local disk; wait until it is there.

        Raises:
            InputError: it cannot be fetched, differs from dataset.json, or does not fit on the
                disk.
        """
        path = self._folder / f"{shard.sha256}.tar"
        while True:
            # Not there yet, or just removed. Taking the lock reports any other error.
            with suppress(FileNotFoundError, NotADirectoryError):
                return _open_cached(path)
            try:
                self._folder.mkdir(parents=True, exist_ok=True)
                lock = self._open_lock(shard.sha256)
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX)  # a killed process releases it
                    if not path.exists():
                        self._fetch(shard, path)
                finally:
                    os.close(lock)
            except OSError as error:
                raise InputError(
                    f"{shard_file(shard.name)} cannot be written to the cache {self._folder}: "
                    f"{reason(error)} (choose another --cache.folder or a smaller "
                    "--cache.limit-gib)"
                ) from error

    def _fetch_waiting(self) -> None:
        while True:
            shard, call = self._waiting.get()
            with suppress(JobError):  # whoever needs it tries again and raises
                call()
                os.close(self.open(shard))

    def _open_lock(self, sha256: str) -> int:
        path = self._folder / f"{sha256}.lock"
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)

    def _fetch(self, shard: ShardInfo, path: Path) -> None:
        name = shard_file(shard.name)
        digest = hashlib.sha256()
        self._make_room(shard.num_bytes)
        with atomic_file(path, settle=False) as file:
            for offset in range(0, shard.num_bytes, CHUNK):
                try:
                    chunk = self._store.read(name, offset, min(CHUNK, shard.num_bytes - offset))
                except FileNotFoundError as error:
                    missing = f"shard {self._store.where(name)} is missing: {AGAIN}"
                    raise InputError(missing) from error
                digest.update(chunk)
                file.write(chunk)
            if digest.hexdigest() != shard.sha256:
                raise InputError(
                    f"shard {self._store.where(name)} is not what dataset.json says: {AGAIN}"
                )

    def _make_room(self, num_bytes: int) -> None:
        """Remove the least recently used shards. An open shard stays readable."""
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
        """Remove the temporary files of killed processes: their locks are free."""
        for orphan in temporaries(self._folder):
            lock = self._open_lock(orphan.name[1:].split(".")[0])
            try:
                with suppress(BlockingIOError):
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    orphan.unlink(missing_ok=True)
            finally:
                os.close(lock)


def _open_cached(path: Path) -> int:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except PermissionError as error:
        raise InputError(
            f"{path} cannot be read: make it readable, or choose another --cache.folder"
        ) from error
    with suppress(FileNotFoundError, PermissionError):  # another user's file
        os.utime(path)
    return descriptor
