"""The saliency sources by name. A new one is a file beside this one and a line here: `README.md`.

Parameters are whole numbers, numbers, booleans, texts or one of several words, with a default.
Every source also takes `refine=True`, and then `refine_side`, `refine_radius` and
`refine_smoothness`, those of `Refined`; likewise `second_look=True` and those of `SecondLook`. With
both, the map of the second look is refined.
"""

import dataclasses
import json
import math
from collections.abc import Mapping
from typing import Any, get_args, get_type_hints

from pipeline.core.errors import InputError
from pipeline.saliency.boundary import Boundary
from pipeline.saliency.controls import Centre, Uniform
from pipeline.saliency.explain import Explain
from pipeline.saliency.external import External
from pipeline.saliency.interface import SaliencySource, Wrapper
from pipeline.saliency.learned import Learned
from pipeline.saliency.onnx_network import Onnx
from pipeline.saliency.opencv import FineGrained, SpectralResidual
from pipeline.saliency.refined import Refined
from pipeline.saliency.scda import Scda
from pipeline.saliency.second_look import SecondLook

SALIENCY_SOURCES: dict[str, type[SaliencySource]] = {
    "boundary": Boundary,
    "centre": Centre,
    "explain": Explain,
    "external": External,
    "fine_grained": FineGrained,
    "learned": Learned,
    "onnx": Onnx,
    "scda": Scda,
    "spectral_residual": SpectralResidual,
    "uniform": Uniform,
}
WRAPPERS: dict[str, type[Wrapper]] = {kind.option: kind for kind in (Refined, SecondLook)}
"""By the option that switches one on; the outermost first."""
WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}


def make_saliency_source(name: str, **options: object) -> SaliencySource:
    """Make the source of that name; parameters that are not given have their defaults.

    Raises:
        InputError: an unknown name or option (lists the known ones), or a value that does not fit.
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
            words = WORDS.get(types[option]) or " or ".join(get_args(types[option]))
            raise InputError(f"saliency {name} wants {option} to be {words}, got {value!r}")
    own = _field_types(SALIENCY_SOURCES[name])
    source = SALIENCY_SOURCES[name](**{k: v for k, v in options.items() if k in own})
    for wrapper, kind in reversed(WRAPPERS.items()):
        given: dict[str, Any] = {
            k.removeprefix(f"{wrapper}_"): v
            for k, v in options.items()
            if k.startswith(f"{wrapper}_")
        }
        if options.get(wrapper):
            source = kind(base=source, **given)
        elif given:
            first = f"{wrapper}_{next(iter(given))}"
            raise InputError(f"{first} is for {wrapper}=true only: add that")
    return source


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
    if name not in SALIENCY_SOURCES or name in ("explain", "external", "learned", "onnx"):
        raise InputError(f"maps of source {name} cannot be computed anew from dataset.json alone")
    given = {key: value for key, value in described.items() if key in _option_types(name)}
    for wrapper in WRAPPERS:
        own = given.pop(wrapper, None)
        if isinstance(own, Mapping):
            given |= {wrapper: True} | {f"{wrapper}_{key}": value for key, value in own.items()}
    return make_saliency_source(name, **given)


def _option_types(name: str) -> dict[str, Any]:
    types = _field_types(SALIENCY_SOURCES[name])
    for wrapper, kind in WRAPPERS.items():
        fields = _field_types(kind)
        del fields["base"]
        types |= {wrapper: bool} | {f"{wrapper}_{key}": wanted for key, wanted in fields.items()}
    return types


def _field_types(source: type[SaliencySource]) -> dict[str, Any]:
    hints = get_type_hints(source)
    return {field.name: hints[field.name] for field in dataclasses.fields(source)}


def _fits(value: object, kind: Any) -> bool:  # noqa: ANN401  (a type or a Literal)
    if kind not in WORDS:
        return value in get_args(kind)
    if isinstance(value, bool):
        return kind is bool
    if kind is float:
        return isinstance(value, (int, float)) and math.isfinite(value)
    return isinstance(value, kind)


def _parsed(value: str) -> object:
    """A JSON number, true, false or null; anything else is text."""
    try:
        parsed = json.loads(value)
    except ValueError:
        return value
    return value if isinstance(parsed, (str, list, dict)) else parsed
