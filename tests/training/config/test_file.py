"""A configuration in a file: what a run or a sweep wrote is read as it was."""

from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.core.errors import InputError
from training.config.fields import with_fields
from training.config.file import (
    CONFIG_FILE,
    check_run_folder,
    differences,
    read_config_file,
    write_config,
)
from training.config.pretrain import PretrainConfig
from training.config.recipes import RECIPES, find_recipe
from training.config.settings import KnnConfig
from training.views.settings import ViewConfig


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_run_s_own_record_gives_its_configuration_back(recipe: str, tmp_path: Path) -> None:
    url = "s3://bucket/shards?endpoint_override=http://host:9000"
    config = with_fields(
        find_recipe(recipe)(url, tmp_path / "run"),
        {"masks.query_ratio": "0.1:0.2", "knn.val_shards": "/v", "loader_workers": 2},
    )
    write_config(config.out, config, "digest")
    read = read_config_file(config.out / CONFIG_FILE, shards=Path("x"), out=Path("/new"))
    # The options of a URL are kept out of the record.
    assert read == replace(config, shards="s3://bucket/shards", out=Path("/new"))
    assert "9000" not in (config.out / CONFIG_FILE).read_text()
    check_run_folder(config.out, config, "digest")
    with pytest.raises(InputError, match=r"other settings .data_digest: digest -> other"):
        check_run_folder(config.out, config, "other")


def test_a_run_goes_on_where_settings_without_effect_have_changed(tmp_path: Path) -> None:
    config = find_recipe("debug")("shards", tmp_path / "run")
    write_config(config.out, config, "digest")
    stronger = {"anchor.strength": 7.0}
    check_run_folder(config.out, with_fields(config, stronger), "digest")
    anchored = with_fields(config, {"anchor.kind": "l2"} | stronger)
    with pytest.raises(InputError, match=r"anchor.kind: none -> l2; anchor.strength: .* -> 7\.0"):
        check_run_folder(config.out, anchored, "digest")


def test_a_run_s_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    config = PretrainConfig(shards="shards", out=tmp_path / "file" / "run")
    with pytest.raises(InputError, match=r"run's folder .*/file/run cannot be written: Not a dir"):
        write_config(config.out, config, "digest")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "cannot be read: .*No such file"),
        ("epochs: 3", "cannot be read"),
        ("[3]", "cannot be read: no JSON object"),
        ('{"epoch": 3}', "cannot be used: there is no field 'epoch': did you mean epochs"),
        ('{"simclr": {"rho": 2}}', r"cannot be used: simclr\.rho is called method\.rho now"),
        ('{"masks": {"attmask": {"probability": 0.5}}}', r"is called masks\.probability now"),
        ('{"epochs": 0}', "cannot be used: epochs=0: epochs 0 must be 1 or more"),
        ('{"version": 99}', "cannot be used: it has version 99, this program reads 1 and earlier"),
        ('{"version": "two"}', "cannot be used: it has version 'two'"),
        ('{"method": [1]}', r"unknown method '\[1\]': choose one of"),
        ("[" * 100_000, "cannot be read"),
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


def test_of_a_whole_file_the_field_that_is_refused_is_named(tmp_path: Path) -> None:
    config = find_recipe("debug")("shards", tmp_path)
    write_config(config.out, config, "digest")
    path = config.out / CONFIG_FILE
    path.write_text(path.read_text().replace('"epochs": 2', '"epochs": "many"'))
    with pytest.raises(InputError, match=r"cannot be used: epochs=many: 'many' is refused, wanted"):
        read_config_file(path, shards=Path("s"), out=Path("o"))


@pytest.mark.parametrize("text", ["", "[]", '{"version": 1, "method"', "\xff"])
def test_a_run_whose_configuration_is_damaged_is_refused(text: str, tmp_path: Path) -> None:
    config = find_recipe("debug")("shards", tmp_path)
    write_config(config.out, config, "digest")
    (config.out / CONFIG_FILE).write_bytes(text.encode("latin-1"))
    with pytest.raises(InputError, match=r"config\.json cannot be read: "):
        check_run_folder(config.out, config, "digest")


def test_differences_name_what_changes_the_weights_and_nothing_else() -> None:
    old = PretrainConfig(shards=Path("s"), out=Path("o"))
    new = replace(
        old,
        shards=Path("moved"),
        num_workers=4,
        knn=KnnConfig(every_epochs=1),
        seed=1,
        views=ViewConfig(size=448),
    )
    assert differences(old.to_json(), new.to_json()) == ["seed: 0 -> 1", "views.size: 224 -> 448"]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("config.json", '{"method": "moco_v2", "moco": {"rho": 2.0}}', "a run of another version"),
        ("config.json", '{"method": {"name": "moco_v2"}, "version": 99}', "of another version"),
        ("notes.txt", "mine", "is no run of this job"),
    ],
)
def test_a_folder_of_something_else_is_left_alone(
    tmp_path: Path, name: str, text: str, message: str
) -> None:
    (tmp_path / name).write_text(text)
    config = find_recipe("moco_v2_small")(Path("shards"), tmp_path)
    with pytest.raises(InputError, match=rf"{message}.*choose another --out"):
        check_run_folder(tmp_path, config, "digest")
    assert [path.name for path in tmp_path.iterdir()] == [name]
