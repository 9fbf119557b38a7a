"""A prefix of a bucket as a store, through pyarrow: `s3://bucket/prefix` and `gs://bucket/prefix`.

Credentials come from the environment, the usual files, or the machine's role; never from a URL.

There is no rename in a bucket, and pyarrow's stream writes an object in parts and completes it
whenever it is closed, also by its destructor and after an error. So a new file is spooled locally,
goes up in one piece after it is finished, and a stream that failed is never closed.
"""

import ctypes
import os
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from functools import lru_cache
from importlib.util import find_spec
from typing import IO, Any, TypeVar
from urllib.parse import parse_qsl

import pyarrow.fs as arrow_fs

from pipeline.core.errors import InputError
from pipeline.storage.storage import REMOTE_SCHEMES, RETRY_SECONDS, Store, StoreError, retrying

OPTIONS = {
    "endpoint_override": "another server, host:port or http://host:port (or AWS_ENDPOINT_URL)",
    "scheme": "http or https, for that server",
    "region": "of the bucket (default: asked for)",
    "anonymous": "true: without credentials",
    "retry_seconds": f"how long an outage is waited out (default {RETRY_SECONDS:.0f})",
}
"""What may stand after the question mark of a URL."""

CONNECT_SECONDS, REQUEST_SECONDS = 5.0, 20.0
CHUNK = 8 << 20
LISTING_THREADS = 8
REFUSALS = {
    "NO_SUCH_BUCKET": "no such bucket",
    "ACCESS_DENIED": "access denied",
    "INVALID_ACCESS_KEY_ID": "access denied (unknown access key)",
    "SIGNATURE_DOES_NOT_MATCH": "access denied (wrong secret key)",
    "INVALID_SIGNATURE": "access denied (wrong secret key)",
    "INVALID_CLIENT_TOKEN_ID": "access denied (unknown access key)",
    "EXPIRED_TOKEN": "access denied (the session token has expired)",
    "MISSING_AUTHENTICATION_TOKEN": "access denied (no credentials)",
    "PERMISSION_DENIED": "access denied",
    "UNAUTHENTICATED": "access denied (no credentials)",
    "HTTP status 301": "the bucket lies in another region",
    "HTTP status 401": "access denied (no credentials)",
    "HTTP status 403": "access denied",
}
"""What will be refused again: pyarrow's words, and ours."""

Result = TypeVar("Result")


@dataclass(frozen=True)
class ObjectStore(Store):
    """Files below a prefix.

    Attributes:
        scheme: s3 or gs.
        base: bucket, or bucket/prefix.
        options: of the connection, sorted.
    """

    scheme: str
    base: str
    options: tuple[tuple[str, str], ...] = ()

    @property
    def url(self) -> str:
        """The place without options."""
        return f"{self.scheme}://{self.base}"

    @property
    def is_remote(self) -> bool:
        """Always."""
        return True

    def read(self, name: str) -> bytes:
        """See `Store`."""

        def attempt() -> bytes:
            with self._connection.open_input_stream(self._path(name)) as file:
                return bytes(file.read())

        return self._retrying(f"{self.where(name)} cannot be read", attempt)

    def read_range(self, name: str, offset: int, length: int) -> bytes:
        """See `Store`."""

        def attempt() -> bytes:
            with self._connection.open_input_file(self._path(name)) as file:
                return bytes(file.read_at(length, offset))

        return self._retrying(f"{self.where(name)} cannot be read", attempt)

    def size(self, name: str) -> int | None:
        """See `Store`."""
        about = self._retrying(
            f"{self.where(name)} cannot be looked up",
            lambda: self._connection.get_file_info(self._path(name)),
        )
        return about.size if about.type == arrow_fs.FileType.File else None

    def files(self, prefix: str = "") -> Iterator[tuple[str, int]]:
        """See `Store`. Lists folder by folder: no process ever holds the whole listing."""
        skip = len(self.base) + 1
        folders = [self._path(prefix)]
        if not self._list(folders[0]):
            self._require_bucket()  # a folder that is not there is empty, in a bucket that is
            return
        with ThreadPoolExecutor(LISTING_THREADS) as pool:
            while folders:
                some, folders = folders[-LISTING_THREADS:], folders[:-LISTING_THREADS]
                for entries in pool.map(self._list, some):
                    for entry in entries:
                        if entry.type == arrow_fs.FileType.Directory:
                            folders.append(entry.path)
                        elif entry.type == arrow_fs.FileType.File:
                            yield entry.path[skip:], entry.size

    @contextmanager
    def new_file(self, name: str) -> Iterator[IO[bytes]]:
        """See `Store`. The spool file has no name: it goes with its process."""
        with tempfile.TemporaryFile(prefix="salmask-") as spool:
            yield spool
            size = spool.seek(0, os.SEEK_END)
            self._retrying(
                f"{self.where(name)} cannot be written", lambda: self._upload(spool, name, size)
            )

    def settle(self) -> None:
        """See `Store`. What is uploaded is safe."""

    def remove(self, name: str) -> None:
        """See `Store`."""
        with suppress(FileNotFoundError):
            self._retrying(
                f"{self.where(name)} cannot be removed",
                lambda: self._connection.delete_file(self._path(name)),
            )

    def sweep(self) -> int:
        """See `Store`. Uploads that never ended cost money, and show nowhere.

        pyarrow cannot list them, so this takes boto3 (the extra `s3`); without it a lifecycle rule
        of the bucket has to (AbortIncompleteMultipartUpload).
        """
        if self.scheme != "s3" or find_spec("boto3") is None:
            return 0
        from pipeline.storage.multipart import abort_uploads

        bucket, _, prefix = self.base.partition("/")
        return self._retrying(
            f"unfinished uploads below {self.url} cannot be swept",
            lambda: abort_uploads(bucket, f"{prefix}/" if prefix else "", dict(self.options)),
        )

    @property
    def _connection(self) -> Any:  # noqa: ANN401  (pyarrow has no types)
        return _connect(self.scheme, self.base.partition("/")[0], self.options)

    def _path(self, name: str) -> str:
        return f"{self.base}/{name}".rstrip("/")

    def _list(self, folder: str) -> list[Any]:
        selector = arrow_fs.FileSelector(folder, allow_not_found=True)
        return self._retrying(
            f"{self.scheme}://{folder} cannot be listed",
            lambda: self._connection.get_file_info(selector),
        )

    def _require_bucket(self) -> None:
        bucket = self.base.partition("/")[0]
        what = f"{self.url} cannot be listed"
        about = self._retrying(what, lambda: self._connection.get_file_info(bucket))
        if about.type == arrow_fs.FileType.NotFound:
            raise StoreError(f"{what}: no such bucket")

    def _upload(self, spool: IO[bytes], name: str, size: int) -> None:
        spool.seek(0)
        stream = self._connection.open_output_stream(self._path(name))
        try:
            while chunk := spool.read(CHUNK):
                stream.write(chunk)
            stream.close()
        except BaseException:
            _never_close(stream)
            raise
        there = self.size(name)
        if there != size:
            raise OSError(f"{there} bytes are there after {size} were written")

    def _retrying(self, what: str, attempt: Callable[[], Result]) -> Result:
        def explained() -> Result:
            try:
                return attempt()
            except FileNotFoundError:
                raise
            except OSError as error:
                for words, ours in REFUSALS.items():
                    if words in str(error):
                        raise StoreError(f"{what}: {ours}") from error
                raise

        seconds = float(dict(self.options).get("retry_seconds", RETRY_SECONDS))
        return retrying(what, explained, is_outage=lambda _: True, seconds=seconds)


def open_object_store(url: str) -> ObjectStore:
    """The store at a URL; an endpoint from the environment goes along with the store.

    Raises:
        InputError: another scheme, no bucket, credentials, an unknown option, a bad value.
    """
    place, _, query = url.partition("?")
    scheme, _, base = place.partition("://")
    if scheme not in REMOTE_SCHEMES:
        raise InputError(
            f"{place}: {scheme}:// is no known kind of place; "
            f"known are local paths, {', '.join(f'{name}://' for name in REMOTE_SCHEMES)}"
        )
    base = base.strip("/")
    bucket = base.partition("/")[0]
    if not bucket:
        raise InputError(f"{place} names no bucket: write {scheme}://bucket/prefix")
    if "@" in bucket:
        raise InputError(
            f"{scheme}://... has credentials in it: leave them to the environment "
            "(AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a profile)"
        )
    options = dict(parse_qsl(query, keep_blank_values=True))
    for name in options:
        if name not in OPTIONS:
            raise InputError(f"{place}?{name}=: unknown option; known are {', '.join(OPTIONS)}")
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    if scheme == "s3" and endpoint:
        options.setdefault("endpoint_override", endpoint)
    if "://" in options.get("endpoint_override", ""):
        kind, _, host = options["endpoint_override"].partition("://")
        options.setdefault("scheme", kind)
        options["endpoint_override"] = host.rstrip("/")
    try:
        float(options.get("retry_seconds", 0))
    except ValueError as error:
        raise InputError(f"{place}: retry_seconds is a number of seconds") from error
    return ObjectStore(scheme, base, tuple(sorted(options.items())))


@lru_cache(64)
def _connect(scheme: str, bucket: str, options: tuple[tuple[str, str], ...]) -> Any:  # noqa: ANN401
    """One connection for a process; a store carries only what it takes to make it."""
    given = dict(options)
    shared = {
        "endpoint_override": given.get("endpoint_override"),
        "scheme": given.get("scheme", "https"),
        "anonymous": given.get("anonymous", "").lower() in ("1", "true", "yes"),
    }
    if scheme == "gs":
        return arrow_fs.GcsFileSystem(**shared, retry_time_limit=timedelta(seconds=2))
    region = given.get("region")
    if region is None and shared["endpoint_override"] is None:
        with suppress(OSError):  # what cannot be asked now is said by the first request
            region = arrow_fs.resolve_s3_region(bucket)
    return arrow_fs.S3FileSystem(
        **shared,
        region=region,
        connect_timeout=CONNECT_SECONDS,
        request_timeout=REQUEST_SECONDS,
        retry_strategy=arrow_fs.AwsStandardS3RetryStrategy(max_attempts=1),
        # only in this mode does a stream remember that a part of it failed
        background_writes=True,
    )


def _never_close(stream: object) -> None:
    """Keep the stream's destructor from ever running: it would complete the upload."""
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(stream))
