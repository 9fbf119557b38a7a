"""Connections to buckets through obstore, and the reasons why its requests fail."""

import os
import re
import time
from contextlib import suppress
from datetime import timedelta
from functools import lru_cache
from http.client import HTTPException
from importlib.util import find_spec
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from obstore.store import AzureStore, GCSStore, S3Store

from pipeline.storage.base import RETRY_SECONDS, StoreError

OBSTORE_RETRY_SECONDS = 2.0
"""obstore's own retries are short: Ctrl-C has no effect during a call of obstore."""
CONNECT_SECONDS, SILENT_SECONDS = 5, 60
"""Seconds after which a request without an answer fails; the upload of a part counts."""
REGION_TRIES = 3
ENDPOINT_NAMES = {
    "s3": ("endpoint", "aws_endpoint_url_s3"),
    "gs": ("base_url",),
    "az": ("endpoint",),
}
Bucket = S3Store | GCSStore | AzureStore
Options = tuple[tuple[str, str], ...]

_is_forked = False


def connect(scheme: str, name: str, options: Options) -> Bucket:
    """Return the connection of this process to a bucket; StoreError in a forked process."""
    if _is_forked:
        raise StoreError(
            "this process was forked from one that had used a bucket, so its requests would hang: "
            "start processes with spawn or forkserver"
        )
    return _connect(scheme, name, options)


@lru_cache(64)
def _connect(scheme: str, name: str, options: Options) -> Bucket:
    given = dict(options)
    endpoint = given.get("endpoint_override", "")
    quick = min(OBSTORE_RETRY_SECONDS, retry_seconds(options))
    more: dict[str, Any] = {
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
    if endpoint:  # AWS_ENDPOINT_URL_S3 would win over the first name alone
        more |= dict.fromkeys(ENDPOINT_NAMES[scheme], endpoint)
    if scheme == "gs":
        return GCSStore(name, **more)
    if scheme == "az":
        return AzureStore(name, **more)
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


def retry_seconds(options: Options) -> float:
    """Return how long outages are retried."""
    return float(dict(options).get("retry_seconds", RETRY_SECONDS))


def bucket_region(name: str, endpoint: str = "https://s3.amazonaws.com") -> str | None:
    """Return the region that s3 names in every answer about a bucket; None without an answer.

    A timeout, a lost connection and a status of 500 or more are tried again, `REGION_TRIES` in all.
    """
    request = Request(f"{endpoint}/{name}", method="HEAD")
    for wait in range(REGION_TRIES):
        time.sleep(wait)
        try:
            headers = urlopen(request, timeout=CONNECT_SECONDS).headers
        except HTTPError as error:
            headers = error.headers
            if error.code >= 500:
                continue
        except (OSError, HTTPException):
            continue
        region: str | None = headers["x-amz-bucket-region"]
        return region
    return None


def status_of(error: Exception) -> int:
    """Return the HTTP status that an error of obstore names, or 0."""
    found = re.search(r"status code: (\d+)", str(error))
    return int(found[1]) if found else 0


def failure(what: str, error: Exception) -> OSError | StoreError:
    """Return the error to raise for an error of obstore, whose own message has many lines.

    It is a `ConnectionError` if another attempt may succeed.
    """
    text, _, details = str(error).partition("\n\nDebug source")
    if isinstance(error, FileNotFoundError) and not re.search("NoSuchBucket|ContainerNotF", text):
        return FileNotFoundError(what)
    if key := re.search(r'Path "(.*)"(?: contained|:)', text, re.DOTALL):
        return StoreError(f"{what}: {bad_key(key[1])}")
    if "169.254.169.254" in text or "metadata.google.internal" in text:
        return StoreError(f"{what}: no credentials: set them in the environment or a profile")
    status = status_of(error)
    why = re.findall(r"status code: ([^:]*)", text) or [text.rpartition(" - ")[2]]
    why += re.findall(r"<Message>([^<\n]*)", text)  # the server's words
    why += re.findall(r'message: "([^"]+)"', details)[-1:]  # the system's, of the innermost cause
    line = " ".join(": ".join(why).split())
    if status >= 500 or status in (408, 429) or (not status and "HTTP error" in text):
        return ConnectionError(line)
    return StoreError(f"{what}: {line}")


def bad_key(key: str) -> str:
    """Return the line about a key that obstore cannot read or list."""
    return f"the key {key!r} has an empty part, or a part . or ..: rename or remove the object"
