"""JSON that others may have written, as dataclasses: whatever does not fit is one ValueError."""

import json
from functools import cache
from typing import Any, TypeVar, cast

Kind = TypeVar("Kind")


def parse(data: bytes | str) -> Any:  # noqa: ANN401
    """Parse JSON; ValueError for all that cannot be parsed."""
    try:
        return json.loads(data)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def fitted(kind: type[Kind], plain: object) -> Kind:
    """A dataclass of dataclasses from what JSON has for it.

    Raises:
        ValueError: an unknown, a missing or an unfit field; names it on one line.
    """
    from pydantic import ValidationError  # slow to import

    try:
        made: Kind = _holder(cast(Any, kind))(value=plain).value
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        where = ".".join(map(str, first["loc"][1:]))
        raise ValueError(f"{where}: {first['msg']}" if where else first["msg"]) from None
    return made


@cache
def _holder(kind: type[Any]) -> Any:  # noqa: ANN401
    """A model that holds a value of this kind; its strictness reaches all parts of the value."""
    from pydantic import ConfigDict, create_model

    return create_model("Holder", __config__=ConfigDict(extra="forbid"), value=(kind, ...))
