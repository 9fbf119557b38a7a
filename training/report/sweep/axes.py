"""Places of a parameter's values on an axis, whether they are numbers or names."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from training.report.wording import figure

MOST_TICKS = 6


@dataclass(frozen=True)
class ParameterAxis:
    """One swept field.

    Attributes:
        name: dotted.
        texts: of the trials' values.
        values: float64 [n]: the numbers, or the places of the names.
        named: names by place, where values are no numbers; else none.
        log: whether the numbers want a logarithmic axis.
    """

    name: str
    texts: tuple[str, ...]
    values: NDArray[np.float64]
    named: tuple[str, ...]
    log: bool

    @property
    def varies(self) -> bool:
        """Whether trials differ in it."""
        return len(set(self.texts)) > 1

    @property
    def working(self) -> NDArray[np.float64]:
        """The values as they are compared: logarithms on a logarithmic axis."""
        return np.log10(self.values) if self.log else self.values

    def unit_places(self) -> NDArray[np.float64]:
        """Places in [0, 1], in the middle where all are the same."""
        return self._unit(self.working)

    def ticks(self) -> list[tuple[float, str]] | None:
        """Places with their names, where there are few; else an axis of numbers finds its own."""
        if self.named:
            return [(float(place), name) for place, name in enumerate(self.named)]
        known = np.unique(self.values).tolist()
        return None if len(known) > MOST_TICKS else [(value, figure(value)) for value in known]

    def unit_ticks(self) -> list[tuple[float, str]]:
        """Places in [0, 1] with their names."""
        if self.named:
            places = self._unit(np.arange(len(self.named), dtype=np.float64))
            return list(zip(places.tolist(), self.named, strict=True))
        known = np.unique(self.values)
        if len(known) > MOST_TICKS:
            ends = np.linspace(self.working.min(), self.working.max(), 4)
            known = np.array([float(f"{end:.2g}") for end in (10**ends if self.log else ends)])
        places = self._unit(np.log10(known) if self.log else known).clip(0, 1)
        return [
            (place, figure(value))
            for place, value in zip(places.tolist(), known.tolist(), strict=True)
        ]

    def _unit(self, working: NDArray[np.float64]) -> NDArray[np.float64]:
        low, high = self.working.min(), self.working.max()
        if self.named:
            low, high = 0.0, len(self.named) - 1.0
        if high <= low:
            return np.full(len(working), 0.5)
        unit: NDArray[np.float64] = (working - low) / (high - low)
        return unit


def parameter_axis(name: str, values: Sequence[object], kind: str) -> ParameterAxis:
    """The axis of a parameter.

    Args:
        name: dotted.
        values: of the trials, at least one.
        kind: of its space: grid, choice, uniform, log_uniform.
    """
    texts = tuple(value_text(value) for value in values)
    numbers = [value for value in values if _is_number(value)]
    if len(numbers) == len(values):
        array = np.array(values, dtype=np.float64)
        positive = bool((array > 0).all())
        wide = positive and array.max() / array.min() >= 20 and kind in ("grid", "choice")
        return ParameterAxis(name, texts, array, (), positive and (kind == "log_uniform" or wide))
    named = tuple(sorted(set(texts), key=_sortable))
    places = np.array([named.index(text) for text in texts], dtype=np.float64)
    return ParameterAxis(name, texts, places, named, log=False)


def value_text(value: object) -> str:
    """A value as a person writes it; a range `0.05:0.25` as `0.05–0.25`."""
    if isinstance(value, str):
        low, colon, high = value.partition(":")
        return f"{low}–{high}" if colon and _reads_as_number(low) else value  # noqa: RUF001
    return "none" if value is None else figure(value)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _reads_as_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _sortable(text: str) -> tuple[int, float, str]:
    """Numbers and ranges by their size, names behind them by the alphabet."""
    first = text.split("–")[0]  # noqa: RUF001
    return (0, float(first), text) if _reads_as_number(first) else (1, 0.0, text)
