"""How much of the trials' differences each parameter explains alone."""

import numpy as np
from numpy.typing import NDArray

from training.report.sweep.axes import ParameterAxis

FEW_VALUES = 6
"""Up to so many different numbers each is a group of its own; more are fitted by a parabola."""


def explained_share(axis: ParameterAxis, objective_N: NDArray[np.float64]) -> float | None:
    """Share of the objective's variance that a parameter explains by itself.

    The coefficient of determination, adjusted for its degrees of freedom
    (1 - (1 - R2) (n - 1) / (n - p - 1), and not below 0): of the means of the groups where there
    are few values or names, else of a parabola over the values (their logarithms on a logarithmic
    axis). What parameters do together, it does not see.

    Args:
        axis: of the parameter, over n trials.
        objective_N: float64 [n].

    Returns:
        A share in [0, 1]; None where the trials are too few or do not differ.
    """
    num_values = len(set(axis.texts))
    total = float(((objective_N - objective_N.mean()) ** 2).sum())
    as_groups = bool(axis.named) or num_values <= FEW_VALUES
    num_terms = num_values - 1 if as_groups else 2
    if num_values < 2 or total <= 0 or len(objective_N) - num_terms - 1 < 1:
        return None
    if as_groups:
        texts = np.array(axis.texts)
        fitted = np.empty_like(objective_N)
        for text in set(axis.texts):
            fitted[texts == text] = objective_N[texts == text].mean()
    else:
        places = axis.unit_places()
        fitted = np.asarray(np.polyval(np.polyfit(places, objective_N, 2), places), np.float64)
    left = float(((objective_N - fitted) ** 2).sum()) / total
    adjusted = 1 - left * (len(objective_N) - 1) / (len(objective_N) - num_terms - 1)
    return max(0.0, adjusted)
