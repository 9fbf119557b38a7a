"""Whether a node reaches a run's folders; here, the node is this process."""

from pathlib import Path

import pytest

from pipeline.core.errors import InputError
from tests.shard_sets import write_shard_set
from training.ray.reach import Places, has_answered, look, token_in
from training.ray.reach import places as places_from_here

NODE = "node-1"


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Places:
    monkeypatch.setattr("training.ray.reach.SETTLE_SECONDS", 0.0)
    write_shard_set(tmp_path / "shards", num_images=16, shard_images=8)
    write_shard_set(tmp_path / "val", num_images=8, first_number=1000)
    roots = (tmp_path / "shards", tmp_path / "val")
    return places_from_here(tmp_path / "runs" / "out", roots)


def test_a_node_that_reaches_everything_answers_and_leaves_no_trace(places: Places) -> None:
    assert [Path(root).name for root in places.shards] == ["shards", "val"]
    with token_in(places.out) as token:
        assert not has_answered(places, token, NODE)
        assert look(places, token, NODE) is None
        assert has_answered(places, token, NODE)
        assert not has_answered(places, token, "another")
    assert not places.out.parent.exists()


def test_a_folder_that_was_there_stays_with_what_it_holds(places: Places) -> None:
    places.out.mkdir(parents=True)
    (places.out / "config.json").write_text("{}")
    with token_in(places.out) as token:
        look(places, token, NODE)
    assert [path.name for path in places.out.iterdir()] == ["config.json"]


def test_another_folder_of_the_same_name_is_seen(places: Places, tmp_path: Path) -> None:
    elsewhere = Places(tmp_path / "local" / "out", places.shards)
    with token_in(places.out) as token:
        assert look(elsewhere, token, NODE) == (
            f"{elsewhere.out} is not the folder there that it is here"
        )


def test_shards_that_are_missing_incomplete_or_others_are_named(
    places: Places, tmp_path: Path
) -> None:
    with token_in(places.out) as token:
        write_shard_set(tmp_path / "others", num_images=8)
        others = Places(places.out, {tmp_path / "others": places.shards[tmp_path / "shards"]})
        assert "others holds another shard set there than here" in str(look(others, token, NODE))
        missing = Places(places.out, {tmp_path / "nowhere": "digest"})
        assert "no shards at" in str(look(missing, token, NODE))
        (tmp_path / "images").mkdir()
        images = places_from_here(places.out, [tmp_path / "images"])
        assert look(images, token, NODE) is None
        (tmp_path / "images").rmdir()
        assert str(look(images, token, NODE)).startswith("there is no ")
        next((tmp_path / "shards").rglob("*.tar")).unlink()
        assert "is missing" in str(look(places, token, NODE))


def test_a_folder_that_cannot_be_written_to_is_said(places: Places) -> None:
    places.out.parent.mkdir(parents=True, exist_ok=True)
    places.out.write_text("a file where the folder would be: not even root writes into it")
    with pytest.raises(InputError, match="cannot be written"):
        token_in(places.out).__enter__()
    assert "is not the folder there" in str(look(places, "token", NODE))
