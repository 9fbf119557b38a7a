"""What saliency maps are worth to the method, before anything is trained or labelled."""

from collections.abc import Sequence

from pipeline.core.progress import numbered

SEPARABLE = 0.78
"""Least separability (`foreground.separability`) of a map that sets an object apart clearly. Maps
that fall off evenly, as a centre prior does, have about 0.75."""

MANY = 0.5
"""Least share of clear maps of a source that exchange has gained with wherever it was measured."""


def separable_share(separabilities: Sequence[float]) -> float:
    """Share in [0, 1] of one or more maps that set an object apart clearly."""
    return sum(value >= SEPARABLE for value in separabilities) / len(separabilities)


def worth_of(separabilities: Sequence[float]) -> str:
    """How clear the maps of a set are, and what to expect of them, in words for people.

    The points are those of tables `maps` and `photographs` (tests/benchmarks/RESULTS.md).
    """
    if not separabilities:
        return "how clear its maps are was not measured, since an earlier version made them"
    share = separable_share(separabilities)
    found = f"{share:.0%} of {numbered(len(separabilities), 'map')} set an object apart clearly"
    gain = "exchanged backgrounds gained 7 to 14 points of accuracy on changed backgrounds"
    if share >= MANY:
        return f"{found}; with such maps {gain}"
    return (
        f"{found}. With {MANY:.0%} or more {gain}, with fewer up to 11, or they cost 7: look at "
        "the masks first (jobs/preview.py), or score the maps (jobs/score.py)"
    )
