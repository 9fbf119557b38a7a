"""Open the store at a path or a URL: a local folder, or a prefix of a bucket."""

from pathlib import Path

from pipeline.core.errors import InputError
from pipeline.storage.base import REMOTE_SCHEMES, Store
from pipeline.storage.local_store import LocalStore

Location = str | Path
"""A local path or a URL, as the user gives it."""
Place = Store | Location
"""A store, or a location that `open_store` opens."""


def open_store(place: Place) -> Store:
    """Return the store at a path or URL; a store is returned unchanged.

    Args:
        place: a local folder, `s3://bucket/prefix`, `gs://bucket/prefix` or
            `az://container/prefix`. Connection options follow a question mark; see
            `pipeline.storage.object_store.OPTIONS`.

    Raises:
        InputError: another kind of URL, or an unknown option.
    """
    if isinstance(place, Store):
        return place
    if not is_url(place):
        return LocalStore(Path(place))
    from pipeline.storage.object_store import open_object_store  # obstore is slow to import

    return open_object_store(str(place))


def open_uri(store: Store, uri: str) -> tuple[Store, str]:
    """Return the store and the name that a URI in a list of images means.

    A name is relative to `store`. A URL of its scheme without options is reached with its options.
    """
    if "://" not in uri:
        return store, uri
    from pipeline.storage.object_store import ObjectStore, open_object_store

    other = open_object_store(uri)
    bucket, _, key = other.base.partition("/")
    options = other.options
    if "?" not in uri and isinstance(store, ObjectStore) and store.scheme == other.scheme:
        options = store.options
    return ObjectStore(other.scheme, bucket, options), key


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
