"""Open the store at a path or a URL: a local folder, or a prefix of a bucket."""

import os
import re
import shutil
from contextlib import suppress
from dataclasses import replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import parse_qsl

from pipeline.core.errors import InputError
from pipeline.storage.atomic import atomic_file
from pipeline.storage.hub import HubStore
from pipeline.storage.store import RETRY_SECONDS, LocalStore, Store

Location = str | Path
"""A local path or a URL, as the user gives it."""
Place = Store | Location
"""A store, or a location that `open_store` opens."""
REMOTE_SCHEMES = ("s3", "gs", "az", "hf")
ALIASES = {"azure": "az"}
SYNTHETIC = "synthetic:"
"""What a location of images begins with that means made ones (`pipeline.sources.synthetic`)."""
OPTIONS = ("endpoint_override", "scheme", "region", "anonymous", "retry_seconds")
"""What may follow the question mark of a URL.

endpoint_override: another server, host:port or http://host:port (or AWS_ENDPOINT_URL).
scheme: http or https, for that server.
region: of the bucket; by default s3 is asked for it.
anonymous: true sends no credentials.
retry_seconds: how long an outage is retried; 30 by default.
"""

COPIES = cache(lambda: TemporaryDirectory(prefix="salmask-copies-"))
"""Makes the folder of all that is `fetched`, at its first use."""

_OPTIONS_OF_URL = re.compile(
    rf"(?<![\w.])((?:{'|'.join((*REMOTE_SCHEMES, *ALIASES))})://[^\s?'\"]*)\?[^\s'\",;)]*"
)
_CREDENTIALS = re.compile(r"(?<=://)[^/\s'\"?]*@")


def without_options(text: str) -> str:
    """A text whose URLs of stores have lost what follows their question marks, and all URLs users.

    Endpoints and passwords are no business of those who read a screen, a record or a report.
    """
    return _CREDENTIALS.sub("", _OPTIONS_OF_URL.sub(r"\1", text))


def open_store(place: Place) -> Store:
    """Return the store at a path or URL; a store is returned unchanged.

    Args:
        place: a local folder, which is made absolute, `s3://bucket/prefix`, `gs://bucket/prefix`,
            `az://container/prefix` (or azure://) or `hf://datasets/owner/name/folder`. `OPTIONS` of
            a bucket's connection follow a question mark. An endpoint of s3 in the environment
            becomes one of them.

    Raises:
        InputError: another kind of URL, no bucket, credentials, an unknown option, a bad value.
    """
    if isinstance(place, Store):
        return place
    if not is_url(place):
        try:
            return LocalStore(Path(place).expanduser().resolve())
        except (ValueError, RuntimeError) as error:  # half a letter, a NUL, ~ of nobody
            raise InputError(f"{str(place)!r} is no path ({error})") from error
    url, _, query = str(place).partition("?")
    scheme, _, base = url.partition("://")
    scheme = ALIASES.get(scheme, scheme)
    if scheme == "hf":
        return HubStore(base.strip("/"))
    from pipeline.storage.object_store import ObjectStore  # obstore is slow to import

    if scheme not in REMOTE_SCHEMES:
        known = ", ".join(f"{name}://" for name in REMOTE_SCHEMES)
        web = "; download the files first" if scheme in ("http", "https") else ""
        raise InputError(f"{url}: {scheme}:// is not supported: use a local path, {known}{web}")
    bucket = base.strip("/").partition("/")[0]
    if not bucket:
        raise InputError(f"{url} names no bucket: write {scheme}://bucket/prefix")
    if "//" in base.strip("/"):
        raise InputError(f"{url} has an empty part: write it without the double slash")
    if "@" in bucket:
        raise InputError(
            f"{scheme}://... contains credentials: leave them to the environment "
            "(AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a profile)"
        )
    options = dict(parse_qsl(query, keep_blank_values=True))
    if unknown := [name for name in options if name not in OPTIONS]:
        raise InputError(f"{url}: unknown option {unknown[0]}; known are {', '.join(OPTIONS)}")
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    if scheme == "s3" and endpoint:
        options.setdefault("endpoint_override", endpoint)
    protocol = options.pop("scheme", "https")
    if "endpoint_override" in options:
        server = options["endpoint_override"].rstrip("/")
        options["endpoint_override"] = server if "://" in server else f"{protocol}://{server}"
    if options.get("anonymous", "").lower() not in ("1", "true", "yes"):
        options.pop("anonymous", None)
    try:
        seconds = float(options.pop("retry_seconds", RETRY_SECONDS))
    except ValueError as error:
        raise InputError(f"{url}: retry_seconds must be a number of seconds") from error
    return ObjectStore(scheme, base.strip("/"), tuple(sorted(options.items())), seconds)


def fetched(place: Location, *names: str) -> Path:
    """Return the folder at a location; of a bucket's, a local copy of the files of these names.

    Those that are not there are left out. Copies last until the end, or `COPIES.cache_clear()`.
    """
    if not is_url(place):
        return Path(place)
    store = open_store(place)
    folder = Path(COPIES().name, store.url.replace(":/", ""))
    for name in names:
        (folder / name).unlink(missing_ok=True)
        with suppress(FileNotFoundError):
            fetch(store, name, folder / name)
    return folder


def fetch(store: Store, name: str, path: Path) -> None:
    """Copy a file of a store to a path, whole or not at all."""
    with store.open(name) as remote, atomic_file(path, settle=False) as file:
        shutil.copyfileobj(remote, file, 8 << 20)


def open_uri(store: Store, uri: str) -> tuple[Store, str]:
    """Return the store and the name that a URI in a list of images means.

    A name is relative to `store`. A URL of its scheme without options is reached with its options.
    """
    if "://" not in uri:
        return store, uri
    from pipeline.storage.object_store import ObjectStore

    other = open_store(uri)
    if isinstance(other, HubStore):
        parts = other.base.split("/")
        return replace(other, base="/".join(parts[:3])), "/".join(parts[3:])
    assert isinstance(other, ObjectStore)
    bucket, _, key = other.base.partition("/")
    if "?" not in uri and isinstance(store, ObjectStore) and store.scheme == other.scheme:
        other = store
    return replace(other, base=bucket), key


def is_url(place: Location) -> bool:
    """Whether a location is a URL, not a local path.

    Raises:
        InputError: a URL that `pathlib` has shortened to one slash.
    """
    text = str(place)
    for scheme in REMOTE_SCHEMES:
        if text.startswith(f"{scheme}:/") and not text.startswith(f"{scheme}://"):
            raise InputError(f"{text} is not a URL: write {scheme}://bucket/prefix")
    return "://" in text
