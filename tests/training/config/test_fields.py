"""Dotted names over nested dataclasses: what there is, what a value may be, what is refused."""

from dataclasses import fields
from functools import reduce
from pathlib import Path
from typing import Any

import pytest

from pipeline.core.errors import InputError
from training.config.fields import check_name, dotted, field_types, with_fields
from training.config.pretrain import PretrainConfig
from training.config.recipes import debug

BASE = debug(Path("s"), Path("o"))


def value_of(config: PretrainConfig, name: str) -> Any:  # noqa: ANN401
    return reduce(getattr, name.split("."), config)


def test_every_field_has_a_name_and_can_be_set_to_what_it_is() -> None:
    names = field_types(PretrainConfig)
    assert {"epochs", "masks.query_ratio", "masks.attmask.ratio", "method.rho"} <= names.keys()
    assert {field.name for field in fields(PretrainConfig)} == {n.split(".")[0] for n in names}
    own = dotted(BASE.to_json())
    assert own.keys() < names.keys()  # which has those of all methods
    assert with_fields(BASE, own | {"method": "simclr"}) == BASE


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
        ("method.hard_mass", 3, 3.0),
        ("method.hard_mass", "paper", "paper"),
    ],
)
def test_values_are_read_by_the_type_of_their_field(name: str, given: Any, wanted: Any) -> None:  # noqa: ANN401
    found = value_of(with_fields(BASE, {name: given}), name)
    assert (found, type(found)) == (wanted, type(wanted))


def test_fields_are_set_together_with_the_part_or_the_pair_that_they_belong_to() -> None:
    config = with_fields(BASE, {"masks.query_ratio.1": 0.5})
    assert config.masks.query_ratio == (BASE.masks.query_ratio[0], 0.5)
    config = with_fields(BASE, {"masks.query_ratio.1": 0.5, "masks.query_ratio": 0.2})
    assert config.masks.query_ratio == (0.2, 0.5)
    config = with_fields(BASE, {"method.queue_size": 128, "method": "moco_v2"})
    assert (config.method.name, value_of(config, "method.queue_size")) == ("moco_v2", 128)
    assert config.method.batch_norm_group == BASE.method.batch_norm_group
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
        ("epochs", 1.5, "epochs=1.5: 1.5 is refused, wanted a valid integer"),
        ("epochs", "many", "'many' is refused, wanted a valid integer$"),
        ("epochs", True, "'True' is refused, wanted a valid integer"),
        ("epochs", "inf", "'inf' is refused, wanted a valid integer"),
        ("optim.lr", "fast", "'fast' is refused, wanted a valid number"),
        ("encoder.compile", "maybe", "'maybe' is refused, wanted a valid boolean"),
        ("masks.strategy", "salient", "unknown mask strategy 'salient': choose from none, random"),
        ("masks.query_ratio", "0.1:0.2:0.3", "wanted Tuple should have at most 2 items"),
        ("masks.query_ratio", "0.3:0.1", r"query_ratio is 0.3 to 0.1: wanted 0 <= low"),
        ("num_workers", "some", "'some' is refused, wanted a valid integer or 'auto'"),
        ("epochs", 0, "epochs 0 must be 1 or more"),
        ("method.queue_size", 64, "method simclr has no setting 'queue_size': choose from"),
        ("method", "swav", "unknown method 'swav': choose one of byol, moco_v2"),
    ],
)
def test_a_value_that_cannot_be_is_refused_by_name(name: str, given: Any, message: str) -> None:  # noqa: ANN401
    with pytest.raises(InputError, match=message):
        with_fields(BASE, {name: given})
