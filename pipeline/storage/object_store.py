"""A prefix of a bucket as a store: s3, gs and az URLs.

Credentials come from the environment, a profile, or the machine's role; never from a URL.
Buckets have no rename: a new file is spooled locally and uploaded whole once it is complete.
"""

# ruff: noqa: D102  (`Store` documents these methods)

import os
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from typing import IO, ClassVar, TypeVar
from urllib.parse import parse_qsl

from obstore.exceptions import BaseError

from pipeline.core.errors import InputError
from pipeline.storage.base import REMOTE_SCHEMES, Store, StoreError, retrying
from pipeline.storage.bucket import (
    Bucket,
    Options,
    bad_key,
    connect,
    failure,
    retry_seconds,
    status_of,
)

OPTIONS = ("endpoint_override", "scheme", "region", "anonymous", "retry_seconds")
"""What may follow the question mark of a URL.

endpoint_override: another server, host:port or http://host:port (or AWS_ENDPOINT_URL).
scheme: http or https, for that server.
region: of the bucket; by default s3 is asked for it.
anonymous: true sends no credentials.
retry_seconds: how long an outage is retried; 30 by default.
"""
LISTING_THREADS = 8
PART_BYTES, PARTS_AT_ONCE = 5 << 20, 2
"""Parts of an upload: few at once, so that a slow line sends them within `SILENT_SECONDS`."""

Result = TypeVar("Result")


@dataclass(frozen=True)
class ObjectStore(Store):
    """Files below a prefix.

    Attributes:
        scheme: s3, gs or az.
        base: bucket, or bucket/prefix.
        options: of the connection, sorted; see `OPTIONS`.
    """

    scheme: str
    base: str
    options: Options = ()
    is_remote: ClassVar[bool] = True

    @property
    def url(self) -> str:
        """The URL without options."""
        return f"{self.scheme}://{self.base}"

    def read(self, name: str) -> bytes:
        return self._ask("read", name, lambda bucket, key: bytes(bucket.get(key).bytes()))

    def read_range(self, name: str, offset: int, length: int) -> bytes:
        def request(bucket: Bucket, key: str) -> bytes:
            try:
                return bytes(bucket.get_range(key, start=offset, length=length))
            except BaseError as error:
                if status_of(error) == 416:  # the file ends before the offset
                    return b""
                raise

        return self._ask("read", name, request)

    def size(self, name: str) -> int | None:
        try:
            return self._ask("looked up", name, lambda bucket, key: bucket.head(key)["size"])
        except FileNotFoundError:
            return None

    def files(self, prefix: str = "") -> Iterator[tuple[str, int]]:
        """Lists a few folders at a time: no process holds the whole listing."""
        with ThreadPoolExecutor(LISTING_THREADS) as pool:
            folders = [prefix.strip("/")]
            while folders:
                some, folders = folders[-LISTING_THREADS:], folders[:-LISTING_THREADS]
                for inner, files in pool.map(self._list, some):
                    folders += inner
                    yield from files

    @contextmanager
    def new_file(self, name: str) -> Iterator[IO[bytes]]:
        """The spool file has no name: it disappears with its process."""
        with tempfile.TemporaryFile(prefix="salmask-") as spool:
            yield spool
            self._ask("written", name, lambda bucket, key: _upload(bucket, key, spool))

    def remove(self, name: str) -> None:
        with suppress(FileNotFoundError):
            self._ask("removed", name, lambda bucket, key: bucket.delete(key))

    def settle(self) -> None:
        """Uploaded files are safe already."""

    def sweep(self) -> int:
        """Aborts unfinished uploads, which cost money and appear in no listing.

        obstore cannot list them. boto3 can, on s3 (the extra `s3`). Without it and on gs, the
        bucket needs the lifecycle rule AbortIncompleteMultipartUpload. Azure discards unfinished
        uploads after a week.
        """
        options = dict(self.options)
        if self.scheme != "s3" or "anonymous" in options or not find_spec("boto3"):
            return 0
        import boto3
        from botocore.exceptions import BotoCoreError, ClientError

        bucket, _, prefix = self.base.partition("/")
        endpoint = options.get("endpoint_override")
        region = options.get("region", "us-east-1" if endpoint else None)
        count = 0
        try:
            server = boto3.resource("s3", endpoint_url=endpoint, region_name=region)
            uploads = server.Bucket(bucket).multipart_uploads
            for upload in uploads.filter(Prefix=f"{prefix}/" if prefix else ""):
                upload.abort()
                count += 1
        except (BotoCoreError, ClientError) as error:
            about = getattr(error, "response", {}).get("ResponseMetadata", {})
            if about.get("HTTPStatusCode") not in (401, 403):  # not allowed: as without boto3
                raise StoreError(f"unfinished uploads in {self.url} remain: {error}") from error
        return count

    def _list(self, folder: str) -> tuple[list[str], list[tuple[str, int]]]:
        """Return the folders in a folder, and its files with their sizes."""
        skip = len(self._key("x")) - 1
        found = self._ask("listed", folder, lambda bucket, key: bucket.list_with_delimiter(key))
        if "" in found["common_prefixes"]:
            raise StoreError(f"{self.url} cannot be listed: {bad_key('/')}")
        sizes = {about["path"][skip:]: about["size"] for about in found["objects"]}
        sizes.pop(folder, None)  # an object with the key of a folder marks the folder
        return [path[skip:] for path in found["common_prefixes"]], list(sizes.items())

    def _key(self, name: str) -> str:
        return f"{self.base.partition('/')[2]}/{name}".strip("/")

    def _ask(self, verb: str, name: str, request: Callable[[Bucket, str], Result]) -> Result:
        """Send a request, with retries."""
        what = f"{self.where(name)} cannot be {verb}"
        bucket = self.base.partition("/")[0]

        def attempt() -> Result:
            try:
                return request(connect(self.scheme, bucket, self.options), self._key(name))
            except (BaseError, FileNotFoundError, ValueError) as error:
                raise failure(what, error) from error

        return retrying(what, attempt, retry_seconds(self.options))


def open_object_store(url: str) -> ObjectStore:
    """Return the store at a URL. An endpoint from the environment becomes part of it.

    Raises:
        InputError: another scheme, no bucket, credentials, an unknown option, a bad value.
    """
    place, _, query = url.partition("?")
    scheme, _, base = place.partition("://")
    if scheme not in REMOTE_SCHEMES:
        known = ", ".join(f"{name}://" for name in REMOTE_SCHEMES)
        raise InputError(f"{place}: {scheme}:// is not supported: use a local path, {known}")
    base = base.strip("/")
    bucket = base.partition("/")[0]
    if not bucket:
        raise InputError(f"{place} names no bucket: write {scheme}://bucket/prefix")
    if "@" in bucket:
        raise InputError(
            f"{scheme}://... contains credentials: leave them to the environment "
            "(AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a profile)"
        )
    options = dict(parse_qsl(query, keep_blank_values=True))
    for name in options:
        if name not in OPTIONS:
            raise InputError(f"{place}?{name}=: unknown option; known are {', '.join(OPTIONS)}")
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    if scheme == "s3" and endpoint:
        options.setdefault("endpoint_override", endpoint)
    protocol = options.pop("scheme", "https")
    if "endpoint_override" in options:
        server = options["endpoint_override"].rstrip("/")
        options["endpoint_override"] = server if "://" in server else f"{protocol}://{server}"
    if options.get("anonymous", "").lower() not in ("1", "true", "yes"):
        options.pop("anonymous", None)
    store = ObjectStore(scheme, base, tuple(sorted(options.items())))
    try:
        retry_seconds(store.options)
    except ValueError as error:
        raise InputError(f"{place}: retry_seconds must be a number of seconds") from error
    return store


def _upload(bucket: Bucket, key: str, spool: IO[bytes]) -> None:
    """Upload a file whole. An error or Ctrl-C on the way aborts the upload."""
    size = spool.seek(0, os.SEEK_END)
    spool.seek(0)
    if size <= PART_BYTES:
        bucket.put(key, spool.read())
        return
    # an iterator, not the file: Ctrl-C is noticed only while Python code runs
    parts = iter(lambda: spool.read(PART_BYTES), b"")
    bucket.put(key, parts, chunk_size=PART_BYTES, max_concurrency=PARTS_AT_ONCE)
