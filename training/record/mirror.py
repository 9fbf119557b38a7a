"""Keep a run's folder in a bucket: it follows a working folder here, in order.

A checkpoint there is whole where its state is: that is written last, behind the record, the export
and the checkpoint's other files of that step, and of an old checkpoint it is removed first.
"""

import secrets
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from pipeline.backbone.folder import BACKBONE_FOLDER, INFO_NAME
from pipeline.core.errors import JobError, check
from pipeline.storage.storage import fetch, open_store
from pipeline.storage.store import Store
from training.config.file import CONFIG_FILE
from training.config.pretrain import PretrainConfig
from training.core.checkpoint import WHOLE, newest_in
from training.core.distributed import agree, gathered, rank
from training.record.relay import PROGRESS_FILE, STANDING_FILE

STOP_FILE = "stop-requested"
TICK_SECONDS = 15.0
"""How often the record follows into the bucket, and a request to stop is looked for there."""
EXPORT = f"{BACKBONE_FOLDER}/{INFO_NAME}"
"""Removed before another export and written behind it: without it an export is none."""


class Mirror:
    """A run's folder in a bucket, where `keep` checkpoints stay, and its working folder."""

    def __init__(self, store: Store, folder: Path, keep: int) -> None:
        self.store, self.folder, self._keep = store, folder, keep
        self._there: dict[str, tuple[int, int]] = {}
        self._thread, self._failed = threading.Thread(), False
        self._ticked = time.monotonic()

    def pull(self, *, states: bool) -> None:
        """Fetch the record and the newest checkpoint, with its state or without."""
        names = [name for name in self.store.names() if not name.startswith(".")]
        foreign = f"{self.store.url} exists and is no run of this job: choose another --out"
        check(CONFIG_FILE in names or not names, foreign)
        newest = tuple(newest_in(names))
        for name in names:
            if "/" not in name or (name.startswith(newest) and (states or ".pt" not in name)):
                fetch(self.store, name, self.folder / name)
                self._there[name] = self._version(name)

    def push(self, wanted: Callable[[str], bool] = bool) -> None:
        """Write what has changed here to the bucket, in order, and remove old checkpoints there."""
        paths = [path for path in self.folder.rglob("*") if path.is_file()]
        names = filter(wanted, (path.relative_to(self.folder).as_posix() for path in paths))
        mine = (n for n in names if not n.startswith("ray/") and "/." not in f"/{n}")
        versions = {name: self._version(name) for name in mine}
        changed = [name for name, v in versions.items() if v != self._there.get(name)]
        if EXPORT in changed:
            self.store.remove(EXPORT)
        for name in sorted(changed, key=_order):
            self.store.upload(name, self.folder / name)
            self._there[name] = versions[name]
        if any(map(WHOLE.fullmatch, changed)):
            there = list(self.store.names("checkpoints"))
            kept = tuple(newest_in(there, self._keep))
            for name in sorted(there, key=_order, reverse=True):
                if not name.startswith(kept):
                    self.store.remove(name)

    def _version(self, name: str) -> tuple[int, int]:
        about = (self.folder / name).stat()
        return about.st_mtime_ns, about.st_size

    def begin(self, wanted: Callable[[str], bool] = bool) -> None:
        """Begin to `push` behind the training; `end` tries again what fails."""
        self._failed = True
        self._thread = threading.Thread(target=self._push, args=(wanted,), daemon=True)
        self._thread.start()

    def _push(self, wanted: Callable[[str], bool]) -> None:
        with suppress(JobError, OSError):
            self.push(wanted)
            self._failed = False
            if self.store.find(STOP_FILE) is not None:
                (self.folder / STOP_FILE).touch()

    def tick(self) -> None:
        """Begin to write the record, now and then; called after every step."""
        now = time.monotonic()
        if now - self._ticked > TICK_SECONDS and not self._thread.is_alive():
            self._ticked = now
            self.begin(bool if self._failed else lambda name: _order(name)[0] == 0)

    def end(self, *, is_over: bool = False) -> None:
        """Wait until a checkpoint is in the bucket, at the end all else, too; remove it here."""
        if self._thread.ident is not None:
            self._thread.join()
        if is_over or self._failed:
            self.push()
        shutil.rmtree(self.folder / "checkpoints", ignore_errors=True)

    def exchange(self, is_last: bool) -> None:
        """On another machine: fetch rank 0's log now and then, and write a request to stop."""
        if not is_last and time.monotonic() - self._ticked < TICK_SECONDS:
            return
        self._ticked = time.monotonic()
        with suppress(JobError, FileNotFoundError):
            self.push(lambda name: name == STOP_FILE)
            with (self.folder / PROGRESS_FILE).open("ab") as file:
                file.write(self.store.read(PROGRESS_FILE, file.tell()))
            fetch(self.store, STANDING_FILE, self.folder / STANDING_FILE)


def _order(name: str) -> tuple[int, bool, str]:
    """0 for the record, 1 for boards and export, 2 for checkpoints; what begins or ends each."""
    if name.startswith("checkpoints/"):
        return 2, WHOLE.fullmatch(name) is not None, name
    is_large = name.startswith((f"{BACKBONE_FOLDER}/", "tensorboard/"))
    return int(is_large), name == EXPORT if is_large else name != CONFIG_FILE, name


@contextmanager
def working_folder(
    config: PretrainConfig, *, states: bool = True
) -> Iterator[tuple[PretrainConfig, Mirror | None]]:
    """While the block runs, a run in a bucket has a temporary folder here as ``out``.

    It begins with what `Mirror.pull` fetches, once on each machine; at its end, and after an error
    if it can be, the bucket has all of it. Every rank calls this. Other runs stay as they are.
    Raises `InputError` where the bucket holds something else, or refuses.
    """
    if config.bucket is None:
        yield config, None
        return
    store, hosts = open_store(config.bucket), gathered(socket.gethostname())
    leader, folder = hosts.index(hosts[rank()]), Path()
    with TemporaryDirectory(prefix="salmask-run-", ignore_cleanup_errors=True) as room:
        try:
            folder = Path(gathered(room)[leader], config.out.name)
            mirror = Mirror(store, folder, config.checkpoint.keep)
            if rank() == 0:
                token = f".reach-{secrets.token_hex(8)}"
                store.write(token, b"0")
                store.remove(token)
                store.sweep()
            if leader == rank():
                folder.mkdir()
                mirror.pull(states=states)
            agree(0)  # until the files are there
            if rank() != 0:
                yield replace(config, out=folder), None
                return
            try:
                yield replace(config, out=folder), mirror
            except Exception:
                with suppress(JobError, OSError):
                    mirror.end(is_over=True)
                raise
            mirror.end(is_over=True)
        except JobError as error:  # people know the bucket, not the folder
            raise type(error)(str(error).replace(str(folder), config.place)) from error
