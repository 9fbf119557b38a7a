"""Dotted names over nested dataclasses: what there is, what a value may be, what is refused."""

from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from pipeline.core.errors import InputError
from training.config.pretrain import PretrainConfig
from training.config.recipes import debug
from training.core.fields import Chosen, check_name, dotted, field_types, read_value, with_fields

BASE = debug(Path("s"), Path("o"))


def test_every_field_has_a_name_and_can_be_set_to_what_it_is() -> None:
    names = field_types(BASE)
    assert {"epochs", "masks.query_ratio", "masks.attmask.ratio", "method.rho"} <= names.keys()
    assert {field.name for field in fields(PretrainConfig)} == {n.split(".")[0] for n in names}

    def value_of(name: str) -> Any:  # noqa: ANN401
        found: Any = BASE
        for part in name.split("."):
            found = getattr(found, part)
        return found.name if isinstance(found, Chosen) else found

    assert names.keys() < field_types(PretrainConfig).keys()  # which has those of all methods
    same = {name: value_of(name) for name in names}
    assert with_fields(BASE, same) == BASE


@pytest.mark.parametrize(
    ("name", "given", "wanted"),
    [
        ("epochs", 3, 3),
        ("epochs", "3", 3),
        ("epochs", 3.0, 3),
        ("optim.lr", 1, 1.0),
        ("masks.query_ratio", "0.1:0.3", (0.1, 0.3)),
        ("masks.query_ratio", 0.2, (0.2, 0.2)),
        ("masks.query_ratio", [0.1, 0.3], (0.1, 0.3)),
        ("masks.strategy", "random", "random"),
        ("num_workers", "auto", "auto"),
        ("num_workers", 2, 2),
        ("loader_workers", "none", None),
        ("loader_workers", 1, 1),
        ("knn.val_shards", "v", Path("v")),
        ("knn.val_shards", "s3://bucket/v?region=x", "s3://bucket/v?region=x"),
        ("knn.val_shards", "none", None),
        ("encoder.compile", "true", True),
    ],
)
def test_values_are_read_by_the_type_of_their_field(name: str, given: Any, wanted: Any) -> None:  # noqa: ANN401
    found: Any = with_fields(BASE, {name: given})
    for part in name.split("."):
        found = getattr(found, part)
    assert found == wanted
    assert type(found) is type(wanted)


def test_one_end_of_a_pair_can_be_set_alone() -> None:
    config = with_fields(BASE, {"masks.query_ratio.1": 0.5})
    assert config.masks.query_ratio == (BASE.masks.query_ratio[0], 0.5)


def test_fields_that_only_fit_together_are_set_together() -> None:
    with pytest.raises(InputError, match=r"views\.size=48, views\.grid=5: .*not divisible"):
        with_fields(BASE, {"views.size": 48, "views.grid": 5})
    config = with_fields(BASE, {"views.size": 60, "views.grid": 5})
    assert (config.views.size, config.views.grid) == (60, 5)


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("mask.query_ratio", "masks.query_ratio"),
        ("query_ratio", "masks.query_ratio"),
        ("masks.query", "masks.query_ratio"),
        ("epoch", "epochs"),
        ("masks", "masks.strategy"),
        ("masks.strategy.0", "masks.strategy"),
        ("masks.query_ratio.2", "masks.query_ratio"),
        ("qqqqq", "jobs/pretrain.py --help"),
    ],
)
def test_an_unknown_name_is_refused_with_near_ones(name: str, near: str) -> None:
    with pytest.raises(InputError, match=f"no field '{name}'.*{near}"):
        check_name(PretrainConfig, name)


@pytest.mark.parametrize(
    ("name", "given", "message"),
    [
        ("epochs", 1.5, "epochs=1.5: 1.5 is no whole number"),
        ("epochs", "many", "'many' is no whole number"),
        ("epochs", True, "True is no whole number"),
        ("epochs", "inf", "'inf' is no whole number"),
        ("optim.lr", "fast", "'fast' is no number"),
        ("encoder.compile", "maybe", "'maybe' is no true or false"),
        (
            "masks.strategy",
            "salient",
            "unknown mask strategy 'salient': choose from none, random, balanced",
        ),
        ("masks.query_ratio", "0.1:0.2:0.3", "has 3 values, wanted 2"),
        ("masks.query_ratio", "0.3:0.1", r"query_ratio is 0.3 to 0.1: wanted 0 <= low"),
        ("num_workers", "some", "'some' is none of whole number, auto"),
        ("epochs", 0, "epochs 0 must be 1 or more"),
    ],
)
def test_a_value_that_cannot_be_is_refused_by_name(name: str, given: Any, message: str) -> None:  # noqa: ANN401
    with pytest.raises(InputError, match=message):
        with_fields(BASE, {name: given})


def test_a_type_that_no_text_stands_for_is_refused() -> None:
    with pytest.raises(InputError, match="a field of type dict cannot be set"):
        read_value(dict, "a")


def test_nested_settings_by_dotted_name() -> None:
    assert dotted({"a": 1, "b": {"c": {"d": 2}, "e": 3}}) == {"a": 1, "b.c.d": 2, "b.e": 3}
