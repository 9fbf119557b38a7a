"""A data set of the Hugging Face Hub as a store that can only be read, through huggingface_hub.

Credentials come from HF_TOKEN, or from a login of the library's own.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from importlib import import_module
from typing import IO, Any, ClassVar

from pipeline.core.errors import InputError
from pipeline.storage.file import File, version_of
from pipeline.storage.store import RETRY_SECONDS, Store, StoreError, retrying


@dataclass(frozen=True)
class HubStore(Store):
    """Files below `base`: datasets/owner/name[@revision], or a folder in it."""

    base: str
    retry_seconds: float = RETRY_SECONDS
    is_remote: ClassVar[bool] = True

    def __post_init__(self) -> None:
        parts = self.base.split("/")
        if len(parts) < 3 or parts[0] != "datasets" or not all(parts) or "@" in parts[1]:
            wanted = "hf://datasets/OWNER/NAME[@REVISION][/FOLDER]"
            raise InputError(f"hf:// names no data set of the hub: write {wanted}")

    @property
    def url(self) -> str:
        """The URL."""
        return f"hf://{self.base}"

    def read(self, name: str, offset: int = 0, length: int | None = None) -> bytes:  # noqa: D102
        end = None if length is None else offset + length
        asked = self._ask("read", name, lambda hub, path: hub.cat_file(path, offset, end))
        return bytes(asked)

    def find(self, name: str) -> File | None:  # noqa: D102
        try:
            about = self._ask("looked up", name, lambda hub, path: hub.info(path))
        except FileNotFoundError:
            return None
        return self._file(name, about) if about["type"] == "file" else None

    def _file(self, name: str, about: Mapping[str, Any]) -> File:
        """The version is of the address, too; a file of which the hub says no digest has none."""
        digest = about.get("blob_id")
        version = version_of(f"{self.where(name)} {digest}") if digest else 0
        return File(name, int(about["size"]), version)

    def files(self, prefix: str = "") -> Iterator[File]:  # noqa: D102
        prefix = prefix.strip("/")
        found = self._ask("listed", prefix, lambda hub, path: hub.find(path, detail=True))
        for path, about in found.items():
            yield self._file(path.removeprefix(f"{self.base}/"), about)

    def new_file(self, name: str) -> AbstractContextManager[IO[bytes]]:  # noqa: D102
        raise StoreError(f"{self.where(name)} cannot be written: hf:// can only be read")

    def remove(self, name: str) -> None:  # noqa: D102
        raise StoreError(f"{self.where(name)} cannot be removed: hf:// can only be read")

    def sweep(self) -> int:
        """Nothing is ever written."""
        return 0

    def _ask(self, verb: str, name: str, request: Callable[[Any, str], Any]) -> Any:  # noqa: ANN401
        """Ask the library, which has no types, for a file or a folder, with retries."""
        what = f"{self.where(name)} cannot be {verb}"
        try:
            library: Any = import_module("huggingface_hub")
        except ImportError as error:
            raise InputError(f"{what}: install the extra hf: pip install 'salmask[hf]'") from error

        def attempt() -> Any:  # noqa: ANN401
            try:
                return request(library.HfFileSystem(), f"{self.base}/{name}".rstrip("/"))
            except Exception as error:  # of the library, and of the one that it sends requests with
                raise _failure(what, error) from error

        return retrying(what, attempt, self.retry_seconds)


def _failure(what: str, error: Exception) -> OSError | StoreError:
    """Returns the error to raise for one of huggingface_hub; `ConnectionError`: it may pass."""
    cause = error.__cause__
    if isinstance(error, FileNotFoundError) and cause is None:
        return FileNotFoundError(what)
    answers = (getattr(one, "response", None) for one in (error, cause))
    status = next((int(answer.status_code) for answer in answers if answer is not None), 0)
    line = next(iter(str(error).strip().splitlines()), type(error).__name__)
    if status in (401, 403, 404):
        line += " (if it is private or gated: set HF_TOKEN, or log in with: hf auth login)"
    is_network = isinstance(error, ConnectionError) or type(error).__module__.startswith("http")
    if status >= 500 or status in (408, 429) or (is_network and not status):
        return ConnectionError(line)
    return StoreError(f"{what}: {line}")
