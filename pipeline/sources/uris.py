"""Resolve the entries of a list of images: relative paths, absolute paths, URLs."""

import os
import posixpath
import stat
from urllib.parse import unquote, urlsplit

from pipeline.core.errors import InputError
from pipeline.sources.listing import Row
from pipeline.storage.base import Store, StoreError, printable, reason
from pipeline.storage.local_store import LocalStore
from pipeline.storage.object_store import ObjectStore, open_object_store
from pipeline.storage.storage import open_uri


class UriResolver:
    """Resolves the entries of the list with this name in a store."""

    def __init__(self, store: Store, name: str) -> None:
        self._store = store
        self._list = store.where(name)
        self._folder = posixpath.dirname(name)
        self._root = os.path.abspath(store.root) if isinstance(store, LocalStore) else ""
        self._seen_buckets: set[str] = set()

    def resolve(self, text: str | None, number: int) -> Row:
        """Return `source`, `uri` and `num_bytes` of an entry; a local file must exist.

        The source is relative to the list's store if possible, else a URL without options.

        Args:
            text: a path, absolute or relative to the list's folder, or a URL (file, s3, gs, az).
            number: of the row, from 1, for messages.

        Raises:
            InputError: empty, missing, or not readable; names the list and the row.
        """
        try:
            return self._resolve(text or "")
        except StoreError:
            raise
        except InputError as error:
            raise InputError(f"{self._list}, row {number}: {error}") from error

    def _resolve(self, text: str) -> Row:
        if not text.strip():
            raise InputError("the image has no URI")
        if text.startswith("file://"):
            text = unquote(urlsplit(text).path)
        if "://" in text:
            other = open_object_store(text)
            if "/" not in other.base:
                raise InputError(f"{text} names no object in the bucket")
            self._look_up(*open_uri(self._store, text))
            return _remote_row(other.url, text)
        if isinstance(self._store, ObjectStore):
            return self._beside_remote(self._store, text)
        if text.startswith("/"):  # no absolute path is recorded
            name = os.path.relpath(text, self._root)
        else:
            name = posixpath.normpath(posixpath.join(self._folder, text))
        try:
            about = os.stat(os.path.join(self._root, name))
        except OSError as error:
            raise InputError(f"{printable(text)} cannot be read: {reason(error)}") from error
        if not stat.S_ISREG(about.st_mode):
            raise InputError(f"{printable(text)} is not a file")
        source = printable(name)
        uri = None if source == name else os.fsencode(name)
        return {"source": source, "uri": uri, "num_bytes": about.st_size}

    def _beside_remote(self, store: ObjectStore, text: str) -> Row:
        if text.startswith("/"):
            raise InputError(
                f"{text} is a local path in a remote list: use relative paths and URLs"
            )
        name = posixpath.normpath(posixpath.join(self._folder, text))
        if not name.startswith("../"):
            self._look_up(store, name)
            return _remote_row(name)
        path = posixpath.normpath(posixpath.join(store.base, name))
        if path.startswith("..") or "/" not in path:
            raise InputError(f"{text} leads out of the bucket")
        return _remote_row(name, f"{store.scheme}://{path}")

    def _look_up(self, store: Store, name: str) -> None:
        """Look up the first object of each bucket, so that a wrong prefix fails at once."""
        bucket = store.url.split("/")[2]
        if bucket not in self._seen_buckets and store.size(name) is None:
            raise InputError(f"{store.where(name)} does not exist")
        self._seen_buckets.add(bucket)


def _remote_row(source: str, uri: str | None = None) -> Row:
    """A row of unknown size: asking for the size of each would take hours."""
    encoded = None if uri is None else uri.encode()
    return {"source": printable(source), "uri": encoded, "num_bytes": -1}
