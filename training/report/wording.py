"""Numbers and values as people read them."""

import math

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
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"{value:,}" if type(value) is int else str(value)


def setting(value: object) -> str:
    """The value of a setting: as `figure`, but `none` for None, and lists with commas."""
    if isinstance(value, list | tuple):
        return ", ".join(map(setting, value))
    return "none" if value is None else figure(value)


def shortened(text: str, length: int) -> str:
    """A text of at most `length` characters; the middle of a longer one is left out."""
    if len(text) <= length:
        return text
    head = (length - 1) // 2
    return f"{text[:head]}…{text[len(text) - (length - 1 - head) :]}"
