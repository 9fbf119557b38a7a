"""What saliency maps are worth to the method, before anything is trained or labelled."""

from collections.abc import Sequence

from pipeline.core.progress import numbered

SEPARABLE = 0.78
"""Least separability (`foreground.separability`) of a map that sets an object apart clearly. Maps
that fall off evenly, as a centre prior does, have about 0.75."""


def separable_share(separabilities: Sequence[float]) -> float:
    """Share in [0, 1] of one or more maps that set an object apart clearly."""
    return sum(value >= SEPARABLE for value in separabilities) / len(separabilities)


def worth_of(separabilities: Sequence[float]) -> str:
    """What to expect of a set's maps, in words for people."""
    if not separabilities:
        return "made by an earlier version, which did not measure how clear they are"
    share = separable_share(separabilities)
    looked_at = numbered(len(separabilities), "map")
    return f"{share:.0%} of {looked_at} set an object apart clearly"
