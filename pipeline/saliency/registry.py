"""The saliency sources by name. A new one is a file beside this one and a line here.

Besides its own parameters every source takes `refine=True`, and then `refine_side`,
`refine_radius` and `refine_smoothness`, those of `Refined`.
"""

import dataclasses
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from pipeline.core.errors import InputError
from pipeline.saliency.boundary import Boundary
from pipeline.saliency.centre import Centre
from pipeline.saliency.external import External
from pipeline.saliency.fine_grained import FineGrained
from pipeline.saliency.interface import SaliencySource, parameters_of
from pipeline.saliency.onnx_network import Onnx
from pipeline.saliency.refined import Refined
from pipeline.saliency.scda import Scda
from pipeline.saliency.spectral_residual import SpectralResidual
from pipeline.saliency.uniform import Uniform

SALIENCY_SOURCES: dict[str, Callable[..., SaliencySource]] = {
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


def make_saliency_source(name: str, **options: object) -> SaliencySource:
    """The source of that name; parameters that are not given have their defaults.

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
        if not _fits(value, types[option]):
            raise InputError(
                f"saliency {name} wants {option} to be {_in_words(types[option])}, got {value!r}"
            )
    given = dict(options)
    wants_refining = given.pop(REFINE, False)
    of_filter = {key: given.pop(key) for key in options if key.startswith(f"{REFINE}_")}
    if of_filter and not wants_refining:
        raise InputError(f"{', '.join(of_filter)} is for {REFINE}=true only: add that")
    source = SALIENCY_SOURCES[name](**given)
    if not wants_refining:
        return source
    filter_options: dict[str, Any] = {
        key.removeprefix(f"{REFINE}_"): value for key, value in of_filter.items()
    }
    return Refined(base=source, **filter_options)


def parse_saliency_source(text: str) -> SaliencySource:
    """The source that a person describes in one word: `name` or `name:option=value,...`.

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
    return {"source": name, **parameters_of(source)}


def described_saliency_source(described: Mapping[str, object]) -> SaliencySource:
    """The source that dataset.json describes; the inverse of `describe_saliency_source`.

    Raises:
        InputError: a source that this program does not know, or whose maps came from files.
    """
    options = dict(described)
    name = str(options.pop("source"))
    if name not in SALIENCY_SOURCES or name in ("external", "onnx"):
        raise InputError(f"maps of source {name} cannot be computed anew from dataset.json alone")
    refine = options.pop(REFINE, None)
    known = _option_types(name)
    given = {key: value for key, value in options.items() if key in known}
    if isinstance(refine, Mapping):
        given |= {REFINE: True} | {f"{REFINE}_{key}": value for key, value in refine.items()}
    return make_saliency_source(name, **given)


def _option_types(name: str) -> dict[str, Any]:
    types: dict[str, Any] = get_type_hints(SALIENCY_SOURCES[name])
    # class variables of a source are no options
    options = {key: kind for key, kind in types.items() if "ClassVar" not in str(kind)}
    options[REFINE] = bool
    for field in dataclasses.fields(Refined):
        if field.name != "base":
            options[f"{REFINE}_{field.name}"] = get_type_hints(Refined)[field.name]
    return options


def _parsed(value: str) -> object:
    """A JSON number, true, false or null; anything else is text."""
    try:
        parsed = json.loads(value)
    except ValueError:
        return value
    return parsed if isinstance(parsed, (int, float, bool, NoneType)) else value


def _fits(value: object, kind: Any) -> bool:  # noqa: ANN401 (a type as `get_type_hints` has it)
    if get_origin(kind) in (Union, UnionType):
        return any(_fits(value, one) for one in get_args(kind))
    if get_origin(kind) is Literal:
        return value in get_args(kind)
    if kind in (int, float):
        return isinstance(value, (int, kind)) and not isinstance(value, bool)
    if kind is Path:
        return isinstance(value, (str, Path))
    return not isinstance(kind, type) or isinstance(value, kind)


def _in_words(kind: Any) -> str:  # noqa: ANN401 (a type as `get_type_hints` has it)
    if get_origin(kind) is Literal:
        return " or ".join(map(str, get_args(kind)))
    names = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
    return names.get(kind, str(kind))
