"""Runs in a bucket, on an S3 server: whole at every moment, and resumed from an empty disk."""

import io
import json
import socket
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import distributed as dist

from pipeline.backbone.folder import load_backbone, weights_digest
from pipeline.core.errors import Diverged, InputError, StoreUnavailable
from pipeline.storage.object_store import ObjectStore
from pipeline.storage.storage import COPIES, is_url
from tests.ranks import in_ranks
from tests.runs import StopsAfter, numbers, run, small_run, weights
from tests.s3_server import Bucket
from tests.shard_sets import write_shard_set
from training.api import Run
from training.config.fields import with_fields
from training.config.pretrain import PretrainConfig, with_place
from training.config.settings import CheckpointConfig, KnnConfig, OptimConfig
from training.core.checkpoint import CheckpointStore, newest_in
from training.encoders.export import load_encoder
from training.engine.replay_step import replay_step
from training.engine.result import result_lines
from training.record.metrics import METRICS_FILE, TIMINGS
from training.record.mirror import working_folder

Objects = dict[str, bytes]
STEPS, KEEP = 6, 2


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> PretrainConfig:
    """A run of six steps on the local disk, which nothing disturbed."""
    root = tmp_path_factory.mktemp("runs")
    write_shard_set(root / "shards", num_images=24, shard_images=12)
    checkpoint = CheckpointConfig(every_epochs=0, every_steps=2, keep=KEEP)
    config = small_run(root / "shards", root / "local", knn=KnnConfig(), checkpoint=checkpoint)
    config = replace(config, log_every_steps=1)
    assert run(config).step == STEPS
    return config


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where temporary folders are made."""
    (tmp_path / "disk").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "disk"))
    COPIES.cache_clear()
    yield tmp_path / "disk"
    COPIES.cache_clear()


class Uploads(list[tuple[str, bytes | None]]):
    """What is written to buckets and removed from them; the next file `fails_at` is not written."""

    fails_at = ""


@pytest.fixture
def uploads(disk: Path, monkeypatch: pytest.MonkeyPatch) -> Uploads:
    """Keeps all that is written, and looks for more than one checkpoint on the disk each time."""
    seen, upload, remove = Uploads(), ObjectStore.upload, ObjectStore.remove
    save: Callable[..., None] = CheckpointStore.save

    def count_checkpoints() -> int:
        assert len(list(disk.rglob("state.pt"))) <= 1
        return len(list(disk.rglob("checkpoints/step-*")))

    def uploaded(self: ObjectStore, name: str, path: Path) -> None:
        count_checkpoints()
        if name == seen.fails_at:
            seen.fails_at = ""
            raise StoreUnavailable(f"{self.where(name)} cannot be written: the test's fault")
        seen.append((name, path.read_bytes()))
        upload(self, name, path)

    def removed(self: ObjectStore, name: str) -> None:
        if not name.startswith("."):
            seen.append((name, None))
        remove(self, name)

    def saved(self: CheckpointStore, *args: object) -> None:
        assert count_checkpoints() == 0, "the one before is in the bucket"
        save(self, *args)
        assert count_checkpoints() == 1

    monkeypatch.setattr(ObjectStore, "upload", uploaded)
    monkeypatch.setattr(ObjectStore, "remove", removed)
    monkeypatch.setattr(CheckpointStore, "save", saved)
    return seen


def moments(done: Uploads) -> Iterator[Objects]:
    """The bucket before the first and after each of these operations."""
    there: Objects = {}
    yield dict(there)
    for name, data in done:
        there.pop(name, None)
        if data is not None:
            there[name] = data
        yield dict(there)


def step_of(there: Iterable[str]) -> int:
    """The step from which a run would go on."""
    return int(next(iter(newest_in(there)), "step-0/").partition("step-")[2].strip("/"))


def files_of(there: Objects, start: str) -> Objects:
    return {name: data for name, data in there.items() if name.startswith(start)}


def entries(there: Objects) -> list[dict[str, float | str]]:
    """The record, without what depends on the machine."""
    lines = there.get(METRICS_FILE, b"").decode().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k not in TIMINGS} for line in lines]


def assert_same(there: Objects, local: PretrainConfig) -> None:
    """The run in the bucket has the record and, to the last bit, the weights of the local one."""
    assert entries(there) == numbers(local.out)
    state = torch.load(io.BytesIO(there[f"{newest_in(there)[0]}state.pt"]), weights_only=True)
    ours, theirs = state["method"], weights(local.out)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], value) for name, value in theirs.items())


def test_a_run_killed_at_every_upload_goes_on_from_an_empty_disk(
    local: PretrainConfig, bucket: Bucket, disk: Path, uploads: Uploads
) -> None:
    config = with_place(local, bucket.url("first"))
    assert run(config).step == STEPS
    whole = bucket.contents("first")
    assert_same(whole, local)
    assert len([name for name in whole if name.endswith("state.pt")]) == KEEP
    assert list(disk.iterdir()) == []
    states = {step_of(there): there for there in moments(uploads)}
    assert list(states) == [0, 2, 4, 6]
    step = 0
    for there in moments(uploads):
        step, before = step_of(there), step
        assert step >= before, "a whole checkpoint is gone before the next is whole"
        for start in newest_in(there, 9):
            assert files_of(there, start) == files_of(states[step_of([f"{start}state.pt"])], start)
        assert not there or "config.json" in there
        seen = [entry for entry in entries(there) if float(entry["step"]) <= step]
        assert step == 0 or seen == [e for e in numbers(local.out) if float(e["step"]) <= step]
        if (export := there.get("backbone/backbone.json")) is not None:
            state = torch.load(io.BytesIO(there["backbone/backbone.pth"]), weights_only=True)
            assert json.loads(export)["weights_sha256"] == weights_digest(state)
            assert step == 0 or json.loads(export)["provenance"]["step"] >= step
    for step, there in states.items():  # the moments with the most that is not whole
        for name, data in there.items():
            bucket.put(f"killed-{step}/{name}", data)
        uploads.clear()
        again = run(with_place(local, bucket.url(f"killed-{step}")))
        assert (again.step, again.ran) == (STEPS, step < STEPS)
        ended = bucket.contents(f"killed-{step}")
        assert_same(ended, local)
        assert files_of(ended, "checkpoints/").keys() == files_of(whole, "checkpoints/").keys()
        assert list(disk.iterdir()) == []


def test_one_failed_upload_is_tried_again_and_an_outage_is_one_line(
    local: PretrainConfig, bucket: Bucket, disk: Path, uploads: Uploads
) -> None:
    uploads.fails_at = "checkpoints/step-00000002/state.pt"
    assert run(with_place(local, bucket.url("run"))).step == STEPS
    assert uploads.fails_at == "", "it failed"
    assert_same(bucket.contents("run"), local)
    cut = with_place(local, bucket.url("cut", retry_seconds=0.2))

    class Cuts(StopsAfter):
        def stop_requested(self) -> bool:
            if super().stop_requested():
                bucket.wire.cut()
            return False

    with pytest.raises(StoreUnavailable, match=rf"^s3://{bucket.name}/cut/\S+ cannot be") as caught:
        run(cut, Cuts(5))
    assert "\n" not in str(caught.value)
    bucket.wire.mend()
    assert step_of(bucket.contents("cut")) in (2, 4)
    assert run(cut).step == STEPS
    assert_same(bucket.contents("cut"), local)


def test_a_place_that_cannot_be_used_is_said_before_anything_trains(
    local: PretrainConfig, bucket: Bucket, disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr("training.engine.local.Trainer")  # nothing gets as far as this
    nowhere = with_place(local, bucket.url("run", bucket="no-such-bucket"))
    with pytest.raises(InputError, match=r"^s3://no-such-bucket/run/\S+ cannot be written: 404"):
        run(nowhere)
    config = with_place(local, bucket.url("run", retry_seconds=0.2))
    with bucket.no_access(), pytest.raises(InputError, match=r"cannot be written: 403 Forbidden"):
        run(config)
    bucket.put("full/notes.txt", b"mine")
    with pytest.raises(InputError, match=r"/full exists and is no run of this job: choose another"):
        run(with_place(local, bucket.url("full")))
    bucket.wire.cut()
    with pytest.raises(StoreUnavailable, match=r"/run/\S+ cannot be written.*again for 0 s\)$"):
        run(config)
    assert list(bucket.contents()) == ["full/notes.txt"]
    assert list(disk.iterdir()) == []


def test_a_run_that_ends_early_leaves_its_record_and_no_option_of_its_url(
    local: PretrainConfig, bucket: Bucket, disk: Path
) -> None:
    config = with_place(replace(local, optim=OptimConfig(lr=1e30)), bucket.url("bad"))
    with pytest.raises(Diverged) as diverged:
        run(config)
    there = bucket.contents("bad")
    failed = json.loads(there["failed_step.json"])
    assert failed["reason"] == str(diverged.value)
    assert entries(there)
    assert replay_step(config, failed["step"]).images == failed["images"]
    with pytest.raises(InputError, match=rf"^s3://{bucket.name}/bad holds a run with other sett"):
        run(with_place(local, bucket.url("bad")))
    good = with_place(local, bucket.url("good"))
    assert run(good, StopsAfter(1)).step == 1
    there |= bucket.contents("good")
    assert json.loads(there["config.json"])["out"] == f"s3://{bucket.name}/good"
    port = str(bucket.wire.port).encode()
    assert [name for name, data in there.items() if port in data or b"endpoint" in data] == []
    assert str(bucket.wire.port) not in "".join(result_lines(run(good), good))
    COPIES.cache_clear()
    assert list(disk.iterdir()) == []


def _in_rank(number: int, config: PretrainConfig, folder: Path, hosts: int) -> None:
    meet = f"file://{folder}/meet"
    dist.init_process_group("gloo", init_method=meet, rank=number, world_size=2)
    setattr(socket, "gethostname", lambda: f"host{number % hosts}")  # noqa: B010  (mypy)
    with working_folder(config) as (here, follows):
        assert (follows is None) == (number == 1)
        assert (here.out / "checkpoints" / "step-00000006" / "state.pt").is_file()
        (folder / str(number)).write_text(str(here.out))
        dist.barrier()


@pytest.mark.parametrize("hosts", [1, 2])
def test_the_ranks_of_a_machine_share_a_folder(
    local: PretrainConfig, bucket: Bucket, tmp_path: Path, hosts: int
) -> None:
    bucket.upload(local.out, "run")
    in_ranks(_in_rank, 2, with_place(local, bucket.url("run")), tmp_path, hosts)
    folders = {(tmp_path / str(number)).read_text() for number in range(2)}
    assert len(folders) == hosts
    assert not any(Path(folder).parent.exists() for folder in folders)


def test_what_reads_runs_reads_them_in_a_bucket(
    local: PretrainConfig, bucket: Bucket, tmp_path: Path, disk: Path
) -> None:
    bucket.upload(local.out, "run")
    url = bucket.url("run")
    far, info = load_encoder(url, "momentum")
    near = load_encoder(local.out, "momentum")[0].state_dict()
    assert all(torch.equal(value, near[key]) for key, value in far.state_dict().items())
    assert info.provenance["encoder"] == "momentum"
    newest = f"{url.partition('?')[0]}/checkpoints/step-00000004?{url.partition('?')[2]}"
    assert load_encoder(newest, "momentum")[1].provenance["step"] == 4
    assert load_backbone(url)[1].weights_sha256 == load_backbone(local.out)[1].weights_sha256
    assert Run(url).finished
    assert Run(url).values == Run(local.out).values
    for name in ("start_from", "extend", "encoder.init"):
        more = {"epochs": 3} if name == "extend" else {}
        for place in (url, str(local.out)):
            out = tmp_path / f"{name}-{is_url(place)}"
            config = with_fields(replace(local, out=out), {name: place, **more})
            assert run(config, StopsAfter(1)).step == (STEPS + 1 if more else 1)
        one, other = (tmp_path / f"{name}-{far}" for far in (True, False))
        assert numbers(one) == numbers(other)
        theirs = weights(other)
        assert all(torch.equal(value, theirs[key]) for key, value in weights(one).items())
    own = bucket.url("own")
    with pytest.raises(InputError, match=r"extend s3://.* is the run's own --out"):
        run(with_place(replace(local, extend=own), own))
    assert list(bucket.contents("own")) == []
