"""Resolve the entries of a list of images: relative paths, absolute paths, URLs."""

import os
import posixpath
import stat
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

from pipeline.core.errors import InputError
from pipeline.storage.local_store import LocalStore
from pipeline.storage.object_store import ObjectStore, open_object_store
from pipeline.storage.storage import Store, StoreError, printable, reason


@dataclass(frozen=True)
class Located:
    """The location of an entry.

    Attributes:
        source: its name, relative to the list's store where possible, else a URL without options.
        uri: the name or URL of its bytes, if it differs from `source`.
        num_bytes: -1 for a remote entry: asking for the size of each would take hours.
    """

    source: str
    uri: bytes | None
    num_bytes: int


class UriResolver:
    """Resolves the entries of one list.

    Args:
        store: the store that holds the list.
        name: of the list.
    """

    def __init__(self, store: Store, name: str) -> None:
        self._store = store
        self._list = store.where(name)
        self._folder = posixpath.dirname(name)
        self._root = os.path.abspath(store.root) if isinstance(store, LocalStore) else ""
        self._seen_buckets: set[str] = set()

    def resolve(self, text: str | None, number: int) -> Located:
        """Return the location of an entry; a local file must exist.

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

    def _resolve(self, text: str) -> Located:
        if not text.strip():
            raise InputError("the image has no URI")
        if text.startswith("file://"):
            text = unquote(urlsplit(text).path)
        if "://" in text:
            return self._remote(text)
        if isinstance(self._store, ObjectStore):
            return self._beside_remote(self._store, text)
        return self._local(text)

    def _local(self, text: str) -> Located:
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
        return Located(source, None if source == name else os.fsencode(name), about.st_size)

    def _beside_remote(self, store: ObjectStore, text: str) -> Located:
        if text.startswith("/"):
            raise InputError(
                f"{text} is a local path in a remote list: use relative paths and URLs"
            )
        name = posixpath.normpath(posixpath.join(self._folder, text))
        if not name.startswith("../"):
            self._look_up(store, name)
            return Located(name, None, -1)
        path = posixpath.normpath(posixpath.join(store.base, name))
        if path.startswith("..") or "/" not in path:
            raise InputError(f"{text} leads out of the bucket")
        return Located(name, f"{store.scheme}://{path}".encode(), -1)

    def _remote(self, text: str) -> Located:
        other = open_object_store(text)
        if "/" not in other.base:
            raise InputError(f"{text} names no object in the bucket")
        self._look_up(*open_uri(self._store, text))
        return Located(other.url, text.encode(), -1)

    def _look_up(self, store: Store, name: str) -> None:
        """Look up the first object of each bucket, so that a wrong prefix fails at once."""
        bucket = store.url.split("/")[2]
        if bucket not in self._seen_buckets and store.size(name) is None:
            raise InputError(f"{store.where(name)} does not exist")
        self._seen_buckets.add(bucket)


def open_uri(store: Store, uri: str) -> tuple[Store, str]:
    """Return the store and the name that the `uri` (or source) of a row means.

    Args:
        store: names are relative to it. A URL of the same scheme without options of its own is
            reached with the options of this store.
        uri: a name or a URL.
    """
    if "://" not in uri:
        return store, uri
    other = open_object_store(uri)
    bucket, _, key = other.base.partition("/")
    options = other.options
    if "?" not in uri and isinstance(store, ObjectStore) and store.scheme == other.scheme:
        options = store.options
    return ObjectStore(other.scheme, bucket, options), key
