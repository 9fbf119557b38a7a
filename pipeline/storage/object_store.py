"""A prefix of a bucket as a store, through obstore: s3, gs and az URLs.

Credentials come from the environment, a profile, or the machine's role; never from a URL.
Buckets have no rename: a new file is spooled locally and uploaded whole once it is complete.
"""

import os
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from functools import lru_cache
from http.client import HTTPException
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Any, ClassVar, TypeVar
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from obstore.exceptions import BaseError
from obstore.store import AzureStore, GCSStore, S3Store

from pipeline.core.errors import StoreUnavailable
from pipeline.core.faults import point
from pipeline.storage.file import File, version_of
from pipeline.storage.store import RETRY_SECONDS, Store, StoreError, retrying

ENDPOINT_NAMES = {
    "s3": ("endpoint", "aws_endpoint_url_s3"),  # AWS_ENDPOINT_URL_S3 would win over the first alone
    "gs": ("base_url",),
    "az": ("endpoint",),
}
OBSTORE_RETRY_SECONDS = 2.0
"""obstore's own retries are short: Ctrl-C has no effect during a call of obstore."""
CONNECT_SECONDS, SILENT_SECONDS, REGION_SECONDS = 5, 60, 3.0
"""Seconds until a request without an answer fails (the upload of a part counts), and for which the
question for a region is retried."""
LISTING_THREADS = 8
PART_BYTES, PARTS_AT_ONCE = 5 << 20, 2
"""Parts of an upload: few at once, so that a slow line sends them within `SILENT_SECONDS`."""
BAD_KEY = "the key {!r} has an empty part, or a part . or ..: rename or remove the object"

Bucket = S3Store | GCSStore | AzureStore
Result = TypeVar("Result")

_is_forked = False


@dataclass(frozen=True)
class ObjectStore(Store):
    """Files below a prefix.

    Attributes:
        scheme: s3, gs or az.
        base: bucket, or bucket/prefix.
        options: of the connection, sorted; see `pipeline.storage.storage.OPTIONS`.
    """

    scheme: str
    base: str
    options: tuple[tuple[str, str], ...] = ()
    retry_seconds: float = RETRY_SECONDS
    is_remote: ClassVar[bool] = True

    @property
    def url(self) -> str:
        """The URL without options."""
        return f"{self.scheme}://{self.base}"

    def read(self, name: str, offset: int = 0, length: int | None = None) -> bytes:  # noqa: D102
        def request(bucket: Bucket) -> bytes:
            if length is None:
                return bytes(bucket.get(name).bytes())[offset:]
            try:
                return bytes(bucket.get_range(name, start=offset, length=length))
            except BaseError as error:
                if _status(error) == 416:  # the file ends before the offset
                    return b""
                raise

        return self._ask("read", name, request)

    def find(self, name: str) -> File | None:  # noqa: D102
        try:
            about = self._ask("looked up", name, lambda bucket: bucket.head(name))
        except FileNotFoundError:
            return None
        return self._file(name, about)

    def _file(self, name: str, about: Mapping[str, Any]) -> File:
        """The version is of the address, too: another object is not the one that was listed."""
        when = about.get("e_tag") or about["last_modified"]
        return File(name, about["size"], version_of(f"{self.where(name)} {when}"))

    def files(self, prefix: str = "") -> Iterator[File]:
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
            self._ask("written", name, lambda bucket: _upload(bucket, name, spool))

    def upload(self, name: str, path: Path) -> None:
        """Needs no spool file: a second copy of a checkpoint may be too large for the disk."""
        with path.open("rb") as file:
            self._ask("written", name, lambda bucket: _upload(bucket, name, file))

    def remove(self, name: str) -> None:  # noqa: D102
        with suppress(FileNotFoundError):
            self._ask("removed", name, lambda bucket: bucket.delete(name))

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

    def _list(self, folder: str) -> tuple[list[str], list[File]]:
        """Return the folders in a folder, and its files."""
        found = self._ask("listed", folder, lambda bucket: bucket.list_with_delimiter(folder))
        if "" in found["common_prefixes"]:
            raise StoreError(f"{self.url} cannot be listed: {BAD_KEY.format('/')}")
        files = [self._file(about["path"], about) for about in found["objects"]]
        # an object with the key of a folder marks the folder
        return list(found["common_prefixes"]), [file for file in files if file.name != folder]

    def _ask(self, verb: str, name: str, request: Callable[[Bucket], Result]) -> Result:
        """Send a request, with retries."""
        what, changes = f"{self.where(name)} cannot be {verb}", verb in ("written", "removed")

        def attempt() -> Result:
            if _is_forked:
                raise StoreError(
                    f"{what}: this process was forked from one that had used a bucket, so its "
                    "requests would hang: start processes with spawn or forkserver"
                )
            try:
                if not changes:
                    return request(_connect(self))
                point(verb, name)
                result = request(_connect(self))
                point(f"was {verb}", name)  # an answer that is lost: it is done again
                return result
            except (BaseError, FileNotFoundError, ValueError) as error:
                raise _failure(what, error) from error

        return retrying(what, attempt, self.retry_seconds)


@lru_cache(64)
def _connect(store: ObjectStore) -> Bucket:
    """Return the connection of this process to a prefix of a bucket."""
    name, _, prefix = store.base.partition("/")
    given = dict(store.options)
    endpoint = given.get("endpoint_override", "")
    quick = min(OBSTORE_RETRY_SECONDS, store.retry_seconds)
    more: dict[str, Any] = {
        "prefix": prefix,
        "client_options": {
            "allow_http": endpoint.startswith("http://"),
            "connect_timeout": f"{CONNECT_SECONDS}s",
            "read_timeout": f"{SILENT_SECONDS}s",
            "timeout": "1day",  # of a whole request, whatever its size
        },
        "retry_config": {"retry_timeout": timedelta(seconds=quick)},
    }
    if "anonymous" in given:
        more["skip_signature"] = True
    if endpoint:
        more |= dict.fromkeys(ENDPOINT_NAMES[store.scheme], endpoint)
    if store.scheme != "s3":
        return (GCSStore if store.scheme == "gs" else AzureStore)(name, **more)
    if region := given.get("region") or (None if endpoint else bucket_region(name)):
        more["region"] = region
    if not ("anonymous" in given or "AWS_ACCESS_KEY_ID" in os.environ) and find_spec("boto3"):
        from obstore.auth.boto3 import Boto3CredentialProvider

        with suppress(ValueError):  # no profile: obstore looks for a role
            more["credential_provider"] = Boto3CredentialProvider()
    return S3Store(name, **more)


def _after_fork() -> None:
    """The threads of obstore do not survive a fork: a request in the child would hang."""
    global _is_forked
    _is_forked = _is_forked or _connect.cache_info().currsize > 0


os.register_at_fork(after_in_child=_after_fork)


def bucket_region(name: str, endpoint: str = "https://s3.amazonaws.com") -> str | None:
    """Return the region that s3 names in every answer about a bucket; None without an answer."""

    def attempt() -> str | None:
        request = Request(f"{endpoint}/{name}", method="HEAD")
        try:
            headers = urlopen(request, timeout=CONNECT_SECONDS).headers
        except (OSError, HTTPException) as error:
            if not isinstance(error, HTTPError) or error.code >= 500:
                raise ConnectionError from error
            headers = error.headers
        region: str | None = headers["x-amz-bucket-region"]
        return region

    with suppress(StoreUnavailable):
        return retrying(endpoint, attempt, REGION_SECONDS)
    return None


def _upload(bucket: Bucket, key: str, spool: IO[bytes]) -> None:
    """Upload a file whole. An error or Ctrl-C on the way aborts the upload."""
    size = spool.seek(0, os.SEEK_END)
    spool.seek(0)
    if size <= PART_BYTES:
        bucket.put(key, spool.read())
        return
    # an iterator, not the file: Ctrl-C is noticed only while Python code runs
    parts = iter(lambda: _part(key, spool), b"")
    bucket.put(key, parts, chunk_size=PART_BYTES, max_concurrency=PARTS_AT_ONCE)


def _part(key: str, spool: IO[bytes]) -> bytes:
    point("part", key)
    return spool.read(PART_BYTES)


def _status(error: Exception) -> int:
    """Return the HTTP status that an error of obstore names, or 0."""
    found = re.search(r"status code: (\d+)", str(error))
    return int(found[1]) if found else 0


def _failure(what: str, error: Exception) -> OSError | StoreError:
    """Return the error to raise for an error of obstore, whose own message has many lines.

    It is a `ConnectionError` if another attempt may succeed.
    """
    text, _, details = str(error).partition("\n\nDebug source")
    if isinstance(error, FileNotFoundError) and not re.search("NoSuchBucket|ContainerNotF", text):
        return FileNotFoundError(what)
    if key := re.search(r'Path "(.*)"(?: contained|:)', text, re.DOTALL):
        return StoreError(f"{what}: {BAD_KEY.format(key[1])}")
    if "169.254.169.254" in text or "metadata.google.internal" in text:
        return StoreError(f"{what}: no credentials: set them in the environment or a profile")
    if "Account must be specified" in text:
        return StoreError(f"{what}: no account: set AZURE_STORAGE_ACCOUNT_NAME")
    status = _status(error)
    why = re.findall(r"status code: ([^:]*)", text) or [text.rpartition(" - ")[2]]
    why += re.findall(r"<Message>([^<\n]*)", text)  # the server's words
    why += re.findall(r'message: "([^"]+)"', details)[-1:]  # the system's, of the innermost cause
    line = " ".join(": ".join(why).split())
    if status >= 500 or status in (408, 429) or (not status and "HTTP error" in text):
        return ConnectionError(line)
    return StoreError(f"{what}: {line}")
