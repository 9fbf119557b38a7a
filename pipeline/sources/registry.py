"""Choose the source of images from `--data`: folder, pattern, list, table, tars or made ones."""

import os
import re
from pathlib import Path

from braceexpand import braceexpand

from pipeline.core.errors import InputError
from pipeline.sources.folder import list_files
from pipeline.sources.listing import Listing, SourceOptions
from pipeline.sources.synthetic import list_synthetic
from pipeline.sources.table import list_tables
from pipeline.sources.tars import list_tars
from pipeline.storage.storage import SYNTHETIC, Location, is_url, open_store

CONTAINERS = {".txt": list_tables, ".csv": list_tables, ".parquet": list_tables, ".tar": list_tars}
WILDCARDS = re.compile(r"[*?\[{]")


def open_source(data: Location, options: SourceOptions) -> Listing:
    """List the images at a location, a local path or a URL.

    - a folder, or a prefix of a bucket: all images below it, at any depth; top-level folders are
      classes, if every image is in one;
    - a pattern (`*`, `**`, `[...]`, `{a,b}`, `{000..099}`, and `?` in local paths): the images that
      match; the path before the first wildcard is the folder;
    - `.txt`: one path or URL a line; `.csv`, `.parquet`: a column of them; relative ones are
      relative to the list's folder;
    - `.parquet` with a column of bytes: the images themselves;
    - `.tar` in WebDataset's format: members of a sample share their name up to its first dot;
    - a pattern that ends in one of these suffixes: many such files;
    - `synthetic:n=20000`: made pictures with exact masks.

    Raises:
        InputError: nothing there, of no known kind, or options that do not fit the kind; also
            while the rows are read.
    """
    if str(data).startswith(SYNTHETIC):
        return list_synthetic(str(data), options)
    is_local = not is_url(str(data))
    text = str(Path(data).expanduser().resolve()) if is_local else str(data)
    path, mark, query = (text, "", "") if is_local else text.partition("?")
    is_folder, is_there = os.path.isdir(path), is_local and os.path.exists(path)
    suffix = os.path.splitext(path)[1].lower()
    container = None if is_folder or path.endswith("/") else CONTAINERS.get(suffix)
    wildcard = None if is_there else WILDCARDS.search(path, path.find("://") + 1)
    if is_local and not is_there and not wildcard:
        raise InputError(f"no such {'file' if container else 'folder'}: {path}")
    if is_there and not is_folder and not container:
        raise InputError(
            f"{path} is a file: wanted are a folder, a pattern (images/*/*.jpg), "
            f"or a file ending in {', '.join(CONTAINERS)}"
        )
    rest = ""
    if wildcard or container:
        cut = path.rfind("/", 0, wildcard.start() if wildcard else None) + 1
        path, rest = path[:cut].rstrip("/") or path[:cut] or ".", path[cut:]
    store = open_store(path + mark + query)
    patterns = _expand(rest) if wildcard else [rest]
    matches = re.compile("|".join(_regex(pattern) for pattern in patterns), re.DOTALL).fullmatch
    if container:
        is_pattern = any(WILDCARDS.search(pattern) for pattern in patterns)
        # Names that braces spell out must all be there.
        names = sorted(filter(matches, store.names())) if is_pattern and wildcard else patterns
        if not names:
            raise InputError(f"nothing below {store.url} matches {rest}")
        return container(store, names, options)
    for name, column in options.columns.items():
        raise InputError(
            f"--{name.replace('_', '-')} {column}: image files have no columns; it is for "
            f"{', '.join(list(CONTAINERS)[1:])}"
        )
    return list_files(store, matches if wildcard else None, options.labels)


def _expand(pattern: str) -> list[str]:
    """A pattern for each choice of its braces."""
    try:
        return list(braceexpand(pattern, escape=False))
    except ValueError as error:
        raise InputError(f"{pattern}: its braces are not balanced") from error


def _regex(pattern: str) -> str:
    """A pattern as shells have it: `*` and `?` stop at slashes, `**` does not."""
    parts = []
    for token in re.findall(r"\*\*/|\*\*|\*|\?|\[[^\]]+\]|.", pattern, re.DOTALL):
        if token[0] == "[" and len(token) > 2:
            inside = token[1:-1].replace("\\", "\\\\")
            parts.append(f"[{'^' + inside[1:] if inside[0] == '!' else inside}]")
        else:
            known = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
            parts.append(known.get(token, re.escape(token)))
    return "".join(parts)
