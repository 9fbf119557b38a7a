"""Numbers as people read them, with their units."""

import math
from pathlib import Path

NONE = "\N{EN DASH}"


def count(number: int, one: str = "", many: str = "") -> str:
    """`1,600`, and with words `1 image`, `1,600 images`."""
    word = one if number == 1 else (many or f"{one}s")
    return f"{number:,} {word}" if one else f"{number:,}"


def percent(share: float, digits: int = 1) -> str:
    """A share in [0, 1] as percent: `12.3 %`."""
    return f"{100 * share:.{digits}f} %"


def figure(value: object) -> str:
    """A number to four digits, anything else as text; a dash for None and NaN."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return NONE
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


def size(num_bytes: float) -> str:
    """Bytes: `3.3 MB`, in powers of 1,000."""
    for unit in ("bytes", "kB", "MB", "GB", "TB"):
        if num_bytes < 1000 or unit == "TB":
            break
        num_bytes /= 1000
    return f"{num_bytes:.0f} {unit}" if unit == "bytes" else f"{num_bytes:.3g} {unit}"


def shortened(text: str, length: int) -> str:
    """A text of at most `length` characters; the middle of a longer one is left out."""
    if len(text) <= length:
        return text
    head = (length - 1) // 2
    return f"{text[:head]}…{text[len(text) - (length - 1 - head) :]}"


def folder_title(folder: Path) -> str:
    """A folder's name with the one above it: `flowers/train`."""
    return "/".join(part for part in folder.parts[-2:] if part != folder.anchor)
