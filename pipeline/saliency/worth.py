"""What saliency maps are worth to the method, before anything is trained or labelled."""

from collections.abc import Sequence

from pipeline.core.progress import numbered

SEPARABLE = 0.78
"""Least separability (`foreground.separability`) of a map that sets an object apart clearly. Maps
that fall off evenly, as a centre prior does, have about 0.75."""

MANY = 0.5
"""From this share of clear maps on, exchange gained wherever it was measured, but for maps of other
pictures."""


def separable_share(separabilities: Sequence[float]) -> float:
    """Share in [0, 1] of one or more maps that set an object apart clearly."""
    return sum(value >= SEPARABLE for value in separabilities) / len(separabilities)


def worth_of(separabilities: Sequence[float]) -> str:
    """How clear the maps of a set are, and what to expect of them, in words for people."""
    if not separabilities:
        return "how clear the maps are is not known: manifests of an earlier version do not say"
    return expectation(separable_share(separabilities), len(separabilities))


def expectation(share: float, num_maps: int) -> str:
    """What to expect of maps of which a share, in [0, 1], is clear.

    The points are those of tables `maps` and `photographs` (tests/benchmarks/RESULTS.md).
    """
    found = f"{share:.0%} of {numbered(num_maps, 'map')} set an object apart clearly"
    gain = "exchanged backgrounds gained 7 to 14 points of accuracy on changed backgrounds"
    if share >= MANY:
        return f"{found}; with such maps {gain}"
    return (
        f"{found}. With {MANY:.0%} or more {gain}, with fewer up to 11, or they cost 7: look at "
        "the masks first (jobs/preview.py), or score the maps (jobs/score.py)"
    )
