"""The saliency sources by name. A new one is a file beside this one and a line here."""

import dataclasses
from collections.abc import Callable

from pipeline.errors import InputError
from pipeline.saliency.boundary import Boundary
from pipeline.saliency.centre import Centre
from pipeline.saliency.external import External
from pipeline.saliency.fine_grained import FineGrained
from pipeline.saliency.interface import SaliencySource
from pipeline.saliency.spectral_residual import SpectralResidual
from pipeline.saliency.uniform import Uniform

SALIENCY_SOURCES: dict[str, Callable[..., SaliencySource]] = {
    "boundary": Boundary,
    "centre": Centre,
    "external": External,
    "fine_grained": FineGrained,
    "spectral_residual": SpectralResidual,
    "uniform": Uniform,
}


def make_saliency_source(name: str, **options: object) -> SaliencySource:
    """The source of that name; parameters that are not given have their defaults.

    Raises:
        InputError: an unknown name; lists the known ones.
    """
    if name not in SALIENCY_SOURCES:
        raise InputError(
            f"unknown saliency source {name!r}: the known ones are {', '.join(SALIENCY_SOURCES)}"
        )
    return SALIENCY_SOURCES[name](**options)


def describe_saliency_source(name: str, source: SaliencySource) -> dict[str, object]:
    """Name and all parameters of a source, as they go into the plan and dataset.json."""
    return {"source": name, **dataclasses.asdict(source)}
