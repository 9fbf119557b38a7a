"""The values of a swept parameter: their places on an axis, and how much they explain."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from training.report.figures import log_ticks
from training.report.wording import NONE, figure

Values = NDArray[np.float64]
NUMBER = r"-?\d+(?:\.\d+)?(?:e-?\d+)?"
FEW_VALUES = 6
"""Up to so many different numbers are each a group and each a tick."""


@dataclass(frozen=True)
class Parameter:
    """One swept field over n trials.

    Attributes:
        name: dotted.
        texts: the values as text.
        values: float64 [n], the numbers, or the indices of the names.
        names: the different values in order, if they are not all numbers; else empty.
        log: whether the numbers are compared by their logarithms.
    """

    name: str
    texts: tuple[str, ...]
    values: Values
    names: tuple[str, ...]
    log: bool

    @property
    def varies(self) -> bool:
        """Whether trials differ in it."""
        return len(set(self.texts)) > 1

    @property
    def grouped(self) -> bool:
        """Whether trials form groups of equal values."""
        return bool(self.names) or len(set(self.texts)) <= FEW_VALUES

    def on_axis(self, values: Values) -> Values:
        """Values as places on a linear axis: their logarithms if `log`."""
        return np.log10(values) if self.log else values

    def ticks(self) -> dict[str, object]:
        """Places to mark and their texts, as plotly takes them; empty: any round numbers."""
        if self.names:
            return {"tickvals": list(range(len(self.names))), "ticktext": self.names}
        if not self.grouped and not self.log:
            return {}
        known = np.unique(self.values)
        known = known if self.grouped else np.array(log_ticks(known[0], known[-1]))
        return {"tickvals": self.on_axis(known), "ticktext": [figure(x) for x in known.tolist()]}

    def spread(self, order: Values) -> Values:
        """Places on a linear axis; trials of equal values lie beside each other in this order."""
        places = self.on_axis(self.values).copy()
        known = np.unique(places)
        if self.grouped and len(known) > 1:
            half = 0.15 * float(np.diff(known).min())
            for place in known:
                same = np.flatnonzero(places == place)
                same = same[np.argsort(order[same], kind="stable")]
                places[same] += np.linspace(-half, half, len(same)) if len(same) > 1 else 0.0
        return places


def swept_parameter(name: str, values: Sequence[object], kind: str) -> Parameter:
    """Describe a parameter.

    Args:
        name: dotted.
        values: of the trials, at least one.
        kind: of its space: grid, choice, uniform or log_uniform.
    """
    texts = tuple(value_text(value) for value in values)
    if all(_is_number(value) for value in values):
        numbers = np.array(values, dtype=np.float64)
        positive = bool((numbers > 0).all())
        wide = positive and numbers.max() / numbers.min() >= 20 and kind in ("grid", "choice")
        return Parameter(name, texts, numbers, (), positive and (kind == "log_uniform" or wide))
    names = tuple(sorted(set(texts), key=_sortable))
    places = np.array([names.index(text) for text in texts], dtype=np.float64)
    return Parameter(name, texts, places, names, log=False)


def explained_share(parameter: Parameter, objective_N: Values) -> float | None:
    """Share of the objective's variance that a parameter explains alone.

    The coefficient of determination, adjusted for its degrees of freedom
    (1 - (1 - R2) (n - 1) / (n - p - 1), at least 0): of the means of the groups if trials form
    groups of equal values, else of a parabola over the values (their logarithms if `log`). It
    does not see what parameters do only together.

    Args:
        parameter: over n trials.
        objective_N: float64 [n].

    Returns:
        A share in [0, 1]; None if there are too few trials or they do not differ.
    """
    num_values = len(set(parameter.texts))
    total = float(((objective_N - objective_N.mean()) ** 2).sum())
    num_terms = num_values - 1 if parameter.grouped else 2
    if num_values < 2 or total <= 0 or len(objective_N) - num_terms - 1 < 1:
        return None
    if parameter.grouped:
        _, groups = np.unique(parameter.texts, return_inverse=True)
        fitted = (np.bincount(groups, objective_N) / np.bincount(groups))[groups]
    else:
        places = parameter.on_axis(parameter.values)
        fitted = np.asarray(np.polynomial.Polynomial.fit(places, objective_N, 2)(places))
    left = float(((objective_N - fitted) ** 2).sum()) / total
    return max(0.0, 1 - left * (len(objective_N) - 1) / (len(objective_N) - num_terms - 1))


def value_text(value: object) -> str:
    """A value as a person writes it; a range such as `0.05:0.25` gets a dash."""
    if isinstance(value, str):
        return re.sub(rf"^({NUMBER}):", rf"\1{NONE}", value)
    return "none" if value is None else figure(value)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _sortable(text: str) -> tuple[float, str]:
    """Sorts numbers and ranges by size, then names alphabetically."""
    number = re.match(NUMBER, text)
    return (float(number[0]) if number else math.inf, text)
