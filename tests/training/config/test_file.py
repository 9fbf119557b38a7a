"""A configuration in a file: what a run or a sweep wrote comes back as it was."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.core.errors import InputError
from training.config.file import config_from_json, read_config_file
from training.config.pretrain import CONFIG_FILE, write_config
from training.config.recipes import RECIPES, debug, find_recipe
from training.core.fields import with_fields


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_runs_own_record_gives_its_configuration_back(recipe: str, tmp_path: Path) -> None:
    config = find_recipe(recipe)(Path("/s"), tmp_path / "run")
    config = with_fields(
        config, {"masks.query_ratio": "0.1:0.2", "knn.val_shards": "/v", "loader_workers": 2}
    )
    write_config(config.out, config, "digest")
    read = read_config_file(config.out / CONFIG_FILE, shards=Path("x"), out=Path("/new"))
    assert read == replace(config, out=Path("/new"))


def test_what_a_file_leaves_out_is_the_default(tmp_path: Path) -> None:
    path = tmp_path / "some.json"
    path.write_text(json.dumps({"epochs": 7, "masks": {"query_ratio": [0.1, 0.2]}}))
    read = read_config_file(path, shards=Path("/s"), out=Path("/o"))
    assert (read.epochs, read.masks.query_ratio, read.shards) == (7, (0.1, 0.2), Path("/s"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "cannot be read: .*No such file"),
        ("epochs: 3", "cannot be read"),
        ("[3]", "cannot be read: no JSON object"),
        ('{"epoch": 3}', "cannot be used: there is no field 'epoch': did you mean epochs"),
        ('{"epochs": 0}', "cannot be used: epochs=0: epochs 0 must be 1 or more"),
    ],
)
def test_a_file_that_is_no_configuration_is_refused(
    text: str | None, message: str, tmp_path: Path
) -> None:
    path = tmp_path / "config.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(InputError, match=message):
        read_config_file(path, shards=Path("s"), out=Path("o"))


def test_shards_in_a_bucket_stay_a_url() -> None:
    url = "s3://bucket/shards?endpoint_override=http://host:9000"
    config = debug(url, Path("/run"))
    again = config_from_json(config.to_json(), shards=Path("/other"), out=Path("/run"))
    assert again == config
    assert again.shards == url
