"""A data set of the Hugging Face Hub as a store that can only be read, through huggingface_hub.

Credentials come from HF_TOKEN, or from a login of the library's own.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from importlib import import_module
from typing import IO, Any, ClassVar, TypeVar

from pipeline.core.errors import InputError
from pipeline.storage.file import File, version_of
from pipeline.storage.store import RETRY_SECONDS, Store, StoreError, retrying

DATASETS = "datasets"
ADDRESS = "hf://datasets/OWNER/NAME[@REVISION]/FOLDER"

Result = TypeVar("Result")


@dataclass(frozen=True)
class HubStore(Store):
    """Files below a folder of a repository.

    Attributes:
        base: datasets/owner/name, or datasets/owner/name/folder; the name may have an @revision.
    """

    base: str
    retry_seconds: float = RETRY_SECONDS
    is_remote: ClassVar[bool] = True
    is_read_only: ClassVar[bool] = True

    def __post_init__(self) -> None:
        parts = self.base.split("/")
        if len(parts) < 3 or parts[0] != DATASETS or not all(parts):
            raise InputError(f"{self.url} names no data set: write {ADDRESS}")
        if "@" in parts[1]:
            raise InputError(f"hf://...@... is no data set: write {ADDRESS}")

    @property
    def url(self) -> str:
        """The URL."""
        return f"hf://{self.base}"

    def read(self, name: str, offset: int = 0, length: int | None = None) -> bytes:  # noqa: D102
        end = None if length is None else offset + length
        return self._ask(
            "read", name, lambda hub, path: bytes(hub.cat_file(path, start=offset, end=end))
        )

    def find(self, name: str) -> File | None:  # noqa: D102
        try:
            about = self._ask("looked up", name, lambda hub, path: dict(hub.info(path)))
        except FileNotFoundError:
            return None
        return self._file(name, about) if about["type"] == "file" else None

    def _file(self, name: str, about: Mapping[str, Any]) -> File:
        """The version is of the address, too; a file of which the hub says no digest has none."""
        digest = about.get("blob_id")
        version = version_of(f"{self.where(name)} {digest}") if digest else 0
        return File(name, int(about["size"]), version)

    def files(self, prefix: str = "") -> Iterator[File]:  # noqa: D102
        try:
            found = self._ask(
                "listed", prefix.strip("/"), lambda hub, path: dict(hub.find(path, detail=True))
            )
        except FileNotFoundError:
            return
        for path, about in found.items():
            if about["type"] == "file":
                yield self._file(path.removeprefix(f"{self.base}/"), about)

    def new_file(self, name: str) -> AbstractContextManager[IO[bytes]]:  # noqa: D102
        raise StoreError(f"{self.where(name)} cannot be written: hf:// can only be read")

    def remove(self, name: str) -> None:  # noqa: D102
        raise StoreError(f"{self.where(name)} cannot be removed: hf:// can only be read")

    def sweep(self) -> int:
        """Nothing is ever written."""
        return 0

    def _ask(self, verb: str, name: str, request: Callable[[Any, str], Result]) -> Result:
        """Ask the library for a file or a folder, with retries."""
        what = f"{self.where(name)} cannot be {verb}"
        path = f"{self.base}/{name}" if name else self.base
        try:
            library: Any = import_module("huggingface_hub")
        except ImportError as error:
            raise InputError(
                f"{what}: hf:// needs the extra hf: pip install 'salmask[hf]'"
            ) from error

        def attempt() -> Result:
            try:
                return request(library.HfFileSystem(), path)
            except Exception as error:  # of the library, and of the one that it sends requests with
                raise _failure(what, error) from error

        return retrying(what, attempt, self.retry_seconds)


def _failure(what: str, error: Exception) -> OSError | StoreError:
    """Returns the error to raise for one of huggingface_hub; `ConnectionError`: it may pass."""
    cause = error.__cause__
    if isinstance(error, FileNotFoundError) and cause is None:
        return FileNotFoundError(what)
    answer = getattr(error, "response", None) or getattr(cause, "response", None)
    status = int(getattr(answer, "status_code", 0))
    lines = str(error).strip().splitlines() or [type(error).__name__]
    if status in (401, 403, 404):
        hint = "if it is private or gated: set HF_TOKEN, or log in with: hf auth login"
        return StoreError(f"{what}: {lines[0]} ({hint})")
    is_network = type(error).__module__.partition(".")[0] in ("httpx", "httpcore", "requests")
    if status >= 500 or status in (408, 429) or (is_network and not status):
        return ConnectionError(lines[0])
    if isinstance(error, OSError) and not (status or cause):
        return error
    return StoreError(f"{what}: {lines[0]}")
