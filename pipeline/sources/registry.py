"""Choose the source of images from `--data`: folder, pattern, list, table or tars."""

import os
import re

from pipeline.core.errors import InputError
from pipeline.sources.folder import list_files
from pipeline.sources.listing import Listing, SourceOptions
from pipeline.sources.table import list_tables
from pipeline.sources.tars import list_tars
from pipeline.storage.base import Store
from pipeline.storage.storage import Place, is_url, open_store

CONTAINERS = (".txt", ".csv", ".parquet", ".tar")
WILDCARDS = re.compile(r"[*?\[]")


def open_source(data: Place, options: SourceOptions) -> Listing:
    """List the images at a location.

    - a folder, or a prefix of a bucket: all images below it, at any depth; top-level folders are
      classes, if every image is in one;
    - a pattern (`*`, `**`, `[...]`, and `?` in local paths): the images that match; the path before
      the first wildcard is the folder;
    - `.txt`: one path or URL a line; `.csv`, `.parquet`: a column of them; relative ones are
      relative to the list's folder;
    - `.parquet` with a column of bytes: the images themselves;
    - `.tar` in WebDataset's format: members of a sample share their name up to its first dot;
    - a pattern that ends in one of these suffixes: many such files.

    Args:
        data: a local path or a URL.
        options: columns and labels.

    Raises:
        InputError: nothing there, of no known kind, or options that do not fit the kind; also
            while the rows are read.
    """
    text = str(data)
    path, question, query = text.partition("?") if is_url(text) else (text, "", "")
    suffix = os.path.splitext(path)[1].lower()
    is_local = not is_url(path)
    is_there = is_local and os.path.exists(path)
    if is_there and os.path.isdir(path):
        return _files(open_store(path), None, options)
    pattern = _split_pattern(path)
    if pattern is not None and not is_there:
        root, rest = pattern
        store = open_store(root + question + query)
        if suffix in CONTAINERS:
            return _containers(store, _matching(store, rest), suffix, options)
        return _files(store, rest, options)
    if is_local and not is_there:
        raise InputError(f"no such {'file' if suffix in CONTAINERS else 'folder'}: {path}")
    if suffix in CONTAINERS and not path.endswith("/"):
        folder, _, name = path.rpartition("/")
        store = open_store((folder or ("/" if path.startswith("/") else ".")) + question + query)
        return _containers(store, [name], suffix, options)
    if is_local:
        raise InputError(
            f"{path} is a file: wanted are a folder, a pattern (images/*/*.jpg), "
            f"or a file ending in {', '.join(CONTAINERS)}"
        )
    return _files(open_store(text), None, options)


def _files(store: Store, pattern: str | None, options: SourceOptions) -> Listing:
    for name in ("image_column", "label_column", "mask_column"):
        if getattr(options, name):
            raise InputError(
                f"--{name.replace('_', '-')} {getattr(options, name)}: image files have no "
                f"columns; it is for {', '.join(CONTAINERS[1:])}"
            )
    return list_files(store, None if pattern is None else _regex(pattern), options.labels)


def _containers(store: Store, names: list[str], suffix: str, options: SourceOptions) -> Listing:
    return (list_tars if suffix == ".tar" else list_tables)(store, names, options)


def _split_pattern(path: str) -> tuple[str, str] | None:
    """The part before the first wildcard's path component, and the rest; None without one."""
    start = len(path.partition("://")[0]) + 3 if is_url(path) else 0
    found = WILDCARDS.search(path, start)
    if found is None:
        return None
    cut = path.rfind("/", 0, found.start()) + 1
    root = path[:cut].rstrip("/") or ("/" if path.startswith("/") else ".")
    return root, path[cut:]


def _matching(store: Store, pattern: str) -> list[str]:
    matches = _regex(pattern).fullmatch
    names = sorted(name for name in store.names() if matches(name))
    if not names:
        raise InputError(f"nothing below {store.url} matches {pattern}")
    return names


def _regex(pattern: str) -> re.Pattern[str]:
    """A pattern as shells have it: `*` and `?` stop at slashes, `**` does not."""
    parts = []
    for token in re.findall(r"\*\*/|\*\*|\*|\?|\[[^\]]+\]|.", pattern, re.DOTALL):
        if token[0] == "[" and len(token) > 2:
            inside = token[1:-1].replace("\\", "\\\\")
            parts.append(f"[{'^' + inside[1:] if inside[0] == '!' else inside}]")
        else:
            known = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
            parts.append(known.get(token, re.escape(token)))
    return re.compile("".join(parts), re.DOTALL)
