"""The saliency sources by name. A new one is a file beside this one and a line here.

Parameters are whole numbers, numbers, booleans or texts with a default. Every source also takes
`refine=True`, and then `refine_side`, `refine_radius` and `refine_smoothness`, those of `Refined`.
"""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from pipeline.core.errors import InputError
from pipeline.saliency.boundary import Boundary
from pipeline.saliency.controls import Centre, Uniform
from pipeline.saliency.external import External
from pipeline.saliency.interface import SaliencySource
from pipeline.saliency.onnx_network import Onnx
from pipeline.saliency.opencv import FineGrained, SpectralResidual
from pipeline.saliency.refined import Refined
from pipeline.saliency.scda import Scda

SALIENCY_SOURCES: dict[str, type[SaliencySource]] = {
    "boundary": Boundary,
    "centre": Centre,
    "external": External,
    "fine_grained": FineGrained,
    "onnx": Onnx,
    "scda": Scda,
    "spectral_residual": SpectralResidual,
    "uniform": Uniform,
}
REFINE = "refine"
WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}


def make_saliency_source(name: str, **options: object) -> SaliencySource:
    """Make the source of that name; parameters that are not given have their defaults.

    Args:
        name: one of `SALIENCY_SOURCES`.
        options: parameters of the source, and of its refinement (`refine=True`).

    Raises:
        InputError: an unknown name or option (lists the known ones), or a value of another type
            than the option's.
    """
    if name not in SALIENCY_SOURCES:
        raise InputError(
            f"unknown saliency source {name!r}: the known ones are {', '.join(SALIENCY_SOURCES)}"
        )
    types = _option_types(name)
    for option, value in options.items():
        if option not in types:
            raise InputError(
                f"saliency {name} has no option {option!r}: the known ones are {', '.join(types)}"
            )
        _check_type(name, option, value, types[option])
    of_filter: dict[str, Any] = {k: v for k, v in options.items() if k.startswith(f"{REFINE}_")}
    given: dict[str, Any] = {k: v for k, v in options.items() if k not in {REFINE, *of_filter}}
    if options.get(REFINE):
        of_filter = {key.removeprefix(f"{REFINE}_"): value for key, value in of_filter.items()}
        return Refined(base=SALIENCY_SOURCES[name](**given), **of_filter)
    if of_filter:
        raise InputError(f"{', '.join(of_filter)} is for {REFINE}=true only: add that")
    return SALIENCY_SOURCES[name](**given)


def parse_saliency_source(text: str) -> SaliencySource:
    """Make the source that a person writes as `name` or `name:option=value,...`.

    Raises:
        InputError: as `make_saliency_source`, or not of that form.
    """
    name, _, listed = text.partition(":")
    options: dict[str, object] = {}
    for part in filter(None, listed.split(",")):
        option, equals, value = part.partition("=")
        if not equals or not option or option in options:
            raise InputError(
                f"saliency {text!r} is not understood at {part!r}: wanted is "
                "name:option=value,option=value, each option once"
            )
        options[option] = _parsed(value)
    return make_saliency_source(name, **options)


def describe_saliency_source(name: str, source: SaliencySource) -> dict[str, object]:
    """Name and all parameters of a source, as they go into the plan and dataset.json."""
    return {"source": name, **source.parameters()}


def described_saliency_source(described: Mapping[str, object]) -> SaliencySource:
    """The source that dataset.json describes; the inverse of `describe_saliency_source`.

    Raises:
        InputError: a source that this program does not know, or whose maps came from files.
    """
    name = str(described["source"])
    if name not in SALIENCY_SOURCES or name in ("external", "onnx"):
        raise InputError(f"maps of source {name} cannot be computed anew from dataset.json alone")
    own = {field.name for field in dataclasses.fields(SALIENCY_SOURCES[name])}
    given = {key: value for key, value in described.items() if key in own}
    refine = described.get(REFINE)
    if isinstance(refine, Mapping):
        given |= {REFINE: True} | {f"{REFINE}_{key}": value for key, value in refine.items()}
    return make_saliency_source(name, **given)


def _option_types(name: str) -> dict[str, type]:
    fields = dataclasses.fields(SALIENCY_SOURCES[name])
    of_filter = [field for field in dataclasses.fields(Refined) if field.name != "base"]
    return {
        **{field.name: type(field.default) for field in fields},
        REFINE: bool,
        **{f"{REFINE}_{field.name}": type(field.default) for field in of_filter},
    }


def _parsed(value: str) -> object:
    """A JSON number, true, false or null; anything else is text."""
    try:
        parsed = json.loads(value)
    except ValueError:
        return value
    return value if isinstance(parsed, (str, list, dict)) else parsed


def _check_type(name: str, option: str, value: object, kind: type) -> None:
    is_number = isinstance(value, (int, kind)) and not isinstance(value, bool)
    if not (is_number if kind in (int, float) else isinstance(value, kind)):
        raise InputError(
            f"saliency {name} wants {option} to be {WORDS.get(kind, kind)}, got {value!r}"
        )
