"""Resolve the entries of a list of images: relative paths, absolute paths, URLs."""

import os
import posixpath
from urllib.parse import unquote, urlsplit

from pipeline.core.errors import InputError
from pipeline.sources.listing import Row
from pipeline.storage.storage import open_store, open_uri
from pipeline.storage.store import LocalStore, Store, printable


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
            source, uri = self._source_and_uri(text or "")
            num_bytes = self._num_bytes(*open_uri(self._store, uri))
        except InputError as error:
            raise InputError(f"{self._list}, row {number}: {error}") from error
        encoded = None if uri == source else os.fsencode(uri)
        return {"source": source, "uri": encoded, "num_bytes": num_bytes}

    def _source_and_uri(self, text: str) -> tuple[str, str]:
        if not text.strip():
            raise InputError("the image has no URI")
        if text.startswith("file://"):
            text = unquote(urlsplit(text).path)
        if "://" in text:
            url = open_store(text).url
            if "/" not in url.partition("://")[2]:
                raise InputError(f"{text} names no object in the bucket")
            return url, text
        if text.startswith("/"):
            if self._store.is_remote:
                raise InputError(
                    f"{text} is a local path in a remote list: use relative paths and URLs"
                )
            name = os.path.relpath(text, self._root)  # no absolute path is recorded
        else:
            name = posixpath.normpath(posixpath.join(self._folder, text))
        if not (self._store.is_remote and name.startswith("../")):
            return printable(name), name
        scheme, _, base = self._store.url.partition("://")
        path = posixpath.normpath(posixpath.join(base, name))
        if path.startswith("..") or "/" not in path:
            raise InputError(f"{text} leads out of the bucket")
        return printable(name), f"{scheme}://{path}"

    def _num_bytes(self, store: Store, name: str) -> int:
        """The size of a local file; -1 for an object: asking for the size of each takes hours.

        The first object of each bucket is looked up, so that a wrong prefix fails at once.
        """
        bucket = store.url.split("/")[2] if store.is_remote else ""
        if bucket in self._seen_buckets:
            return -1
        size = store.size(name)
        if size is None:
            raise InputError(f"{store.where(name)} does not exist or is not a file")
        if bucket:
            self._seen_buckets.add(bucket)
        return -1 if bucket else size
