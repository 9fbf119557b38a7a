"""The entries of a list of images: relative to the list, absolute, or remote."""

import os
import posixpath
import stat
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

from pipeline.core.errors import InputError
from pipeline.storage.local_store import LocalStore
from pipeline.storage.object_store import ObjectStore, open_object_store
from pipeline.storage.storage import Store, printable, reason


@dataclass(frozen=True)
class Located:
    """Where an entry's bytes lie.

    Attributes:
        source: relative to the list's store where that can be said, else a URL without options.
        uri: where its bytes lie, if that is not `source`.
        num_bytes: -1 for what is remote: asking for each would take hours.
    """

    source: str
    uri: bytes | None
    num_bytes: int


class UriResolver:
    """Resolves the entries of one list."""

    def __init__(self, store: Store, name: str) -> None:
        self._store = store
        self._list = store.where(name)
        self._folder = posixpath.dirname(name)
        self._root = os.path.abspath(store.root) if isinstance(store, LocalStore) else ""
        self._seen_buckets: set[str] = set()

    def resolve(self, text: str | None, number: int) -> Located:
        """Where an entry lies; what is local is looked up.

        Args:
            text: a path, absolute or relative to the list's folder, or a URL (file, s3, gs).
            number: of the row, from 1, for messages.

        Raises:
            InputError: empty, not there, or of a kind that cannot be read; names list and row.
        """
        if not text or not text.strip():
            raise InputError(f"{self._list}, row {number}: the image has no URI")
        if text.startswith("file://"):
            text = unquote(urlsplit(text).path)
        if "://" in text:
            return self._remote(text, number)
        if isinstance(self._store, ObjectStore):
            return self._beside_remote(self._store, text, number)
        return self._local(text, number)

    def _local(self, text: str, number: int) -> Located:
        if text.startswith("/"):  # written as it is seen from the list: no absolute path is kept
            name = os.path.relpath(text, self._root)
        else:
            name = posixpath.normpath(posixpath.join(self._folder, text))
        try:
            about = os.stat(os.path.join(self._root, name))
        except OSError as error:
            raise InputError(
                f"{self._list}, row {number}: {printable(text)} cannot be read: {reason(error)}"
            ) from error
        if not stat.S_ISREG(about.st_mode):
            raise InputError(f"{self._list}, row {number}: {printable(text)} is no file")
        source = printable(name)
        return Located(source, None if source == name else os.fsencode(name), about.st_size)

    def _beside_remote(self, store: ObjectStore, text: str, number: int) -> Located:
        if text.startswith("/"):
            raise InputError(
                f"{self._list}, row {number}: {text} is a local path in a remote list: "
                "relative paths and URLs are wanted"
            )
        name = posixpath.normpath(posixpath.join(self._folder, text))
        if not name.startswith("../"):
            self._look_up(store, name, number)
            return Located(name, None, -1)
        place = posixpath.normpath(posixpath.join(store.base, name))
        if place.startswith("..") or "/" not in place:
            raise InputError(f"{self._list}, row {number}: {text} leads out of the bucket")
        return Located(name, f"{store.scheme}://{place}".encode(), -1)

    def _remote(self, text: str, number: int) -> Located:
        try:
            other = open_object_store(text)
        except InputError as error:
            raise InputError(f"{self._list}, row {number}: {error}") from error
        if "/" not in other.base:
            raise InputError(f"{self._list}, row {number}: {text} names no object in the bucket")
        self._look_up(*open_uri(self._store, text), number)
        return Located(other.url, text.encode(), -1)

    def _look_up(self, store: Store, name: str, number: int) -> None:
        """Ask for the first object of each bucket: a wrong prefix or no access shows at once."""
        bucket = store.url.split("/")[2]
        if bucket in self._seen_buckets:
            return
        self._seen_buckets.add(bucket)
        if store.size(name) is None:
            raise InputError(f"{self._list}, row {number}: {store.where(name)} is not there")


def open_uri(store: Store, uri: str) -> tuple[Store, str]:
    """The store and the name that a row's `uri` (or its source) means.

    Args:
        store: what names are relative to; a URL of the same scheme without options of its own is
            reached as this store is.
        uri: a name or a URL.
    """
    if "://" not in uri:
        return store, uri
    other = open_object_store(uri)
    bucket, _, key = other.base.partition("/")
    same = "?" not in uri and isinstance(store, ObjectStore) and store.scheme == other.scheme
    options = store.options if same and isinstance(store, ObjectStore) else other.options
    return ObjectStore(other.scheme, bucket, options), key
