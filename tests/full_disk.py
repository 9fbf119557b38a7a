"""A disk that is full from the n-th write on, for code that runs in the test's own process."""

import errno
import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import pytest


class FullDisk:
    """Counts what is written through `Path.open("xb")`, `os.fsync` and renames, and fails.

    Args:
        monkeypatch: puts it in place.
        fails_at: the number, from 1, of the first operation that fails; 0: none does.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, fails_at: int = 0) -> None:
        self.num_operations = 0
        self.fails_at = fails_at
        plain_open = Path.open

        def opened(path: Path, mode: str = "r", *args: Any, **kwargs: Any) -> IO[Any]:  # noqa: ANN401
            if mode != "xb":
                return plain_open(path, mode, *args, **kwargs)
            return io.BufferedWriter(_Raw(path, self.use))

        monkeypatch.setattr(Path, "open", opened)
        for owner, name in ((os, "fsync"), (Path, "replace")):
            monkeypatch.setattr(owner, name, self._counted(getattr(owner, name)))

    def use(self) -> None:
        """One more operation."""
        self.num_operations += 1
        if self.fails_at and self.num_operations >= self.fails_at:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def _counted(self, operation: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*args: Any) -> Any:  # noqa: ANN401
            self.use()
            return operation(*args)

        return counted


class _Raw(io.FileIO):
    def __init__(self, path: Path, use: Callable[[], None]) -> None:
        super().__init__(path, "xb")
        self._use = use

    def write(self, data: Any) -> int:  # noqa: ANN401
        self._use()
        return super().write(data)
