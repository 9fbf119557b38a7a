"""How many files lie on the ways through the project that a reader follows most."""

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import CodeType, FrameType, TracebackType
from typing import Any

import pytest

from jobs import cli, pretrain
from pipeline.core.errors import DamagedSample, JobError
from pipeline.precompute.build import ensure_shard
from pipeline.saliency.boundary import Boundary
from tests.job_here import job_here
from tests.picture_folders import write_pictures
from tests.pretrain_jobs import command
from tests.runs import StopsAfter, run, small_run
from tests.shard_jobs import job_of_folder
from tests.shard_sets import damage_images, write_shard_set
from training.config.settings import KnnConfig
from training.data.stream import BatchDataset
from training.engine.loop import Trainer
from training.record.run_record import RunRecord

ROOT = Path(__file__).resolve().parents[2]
IMAGE_TO_SHARD, SAMPLE_TO_LOSS, QUERY_RATIO, DAMAGE_TO_LINE = 20, 20, 8, 5


def own_file(code: CodeType) -> str | None:
    """The name of a source file of the project; None for a library's or a test's."""
    path = Path(code.co_filename)
    name = path.relative_to(ROOT).as_posix() if path.is_relative_to(ROOT) else ""
    return name if name.split("/")[0] in ("pipeline", "training", "jobs") else None


class Tracer:
    """Collects the project's files whose functions are called."""

    def __init__(self) -> None:
        self.files: set[str] = set()

    def _called(self, frame: FrameType, event: str, _: Any) -> None:  # noqa: ANN401
        if event == "call" and (name := own_file(frame.f_code)) is not None:
            self.files.add(name)

    @contextmanager
    def on(self) -> Iterator[None]:
        """Collects while the block runs, in this thread and in those that it starts."""
        before = sys.getprofile()
        threading.setprofile(self._called)
        sys.setprofile(self._called)
        try:
            yield
        finally:
            sys.setprofile(before)
            threading.setprofile(None)

    def wrapped(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, traced with all that it calls."""

        def traced(*args: Any, **settings: Any) -> Any:  # noqa: ANN401
            with self.on():
                return function(*args, **settings)

        return traced


def test_from_an_image_to_its_shard(tmp_path: Path) -> None:
    write_pictures(tmp_path / "data", 3)
    job = job_of_folder(tmp_path / "data", tmp_path / "out", Boundary())
    tracer = Tracer()
    with tracer.on():
        assert ensure_shard(job).info.num_images == 3
    assert "pipeline/shardset/writer.py" in tracer.files
    assert len(tracer.files) <= IMAGE_TO_SHARD, "\n".join(sorted(tracer.files))


def test_from_a_sample_to_the_loss(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second step of MoCo v2, when the manifests are read; the record comes after the loss."""
    write_shard_set(tmp_path / "shards", num_images=16)
    tracer, steps = Tracer(), []

    def end_step(*_: object) -> None:
        steps.append(set(tracer.files))
        tracer.files.clear()

    monkeypatch.setattr(BatchDataset, "__getitem__", tracer.wrapped(BatchDataset.__getitem__))
    monkeypatch.setattr(Trainer, "train_step", tracer.wrapped(Trainer.train_step))
    monkeypatch.setattr(RunRecord, "add", end_step)
    monkeypatch.setattr(RunRecord, "write_interval", lambda *_: None)
    monkeypatch.setattr(Trainer, "_contact_sheet", lambda _: None)
    monkeypatch.setattr(Trainer, "_evaluate", lambda _: None)
    run(small_run(tmp_path / "shards", tmp_path / "run", knn=KnnConfig()), StopsAfter(2))
    assert {"training/data/stream.py", "training/methods/moco/method.py"} < steps[1]
    assert len(steps[1]) <= SAMPLE_TO_LOSS, "\n".join(sorted(steps[1]))


def test_what_names_the_query_ratio() -> None:
    search = ["git", "grep", "-lE", "query[_-]ratio", "--", *("pipeline", "training", "jobs")]
    found = subprocess.run(search, cwd=ROOT, capture_output=True, text=True, check=True)
    files = [name for name in found.stdout.split() if not name.endswith(".md")]
    assert len(files) <= QUERY_RATIO, files


def test_from_a_damaged_sample_to_the_line_that_a_person_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Between the file that finds the damage and the one that prints the line."""
    write_shard_set(tmp_path / "train", num_images=16)
    write_shard_set(tmp_path / "val", num_images=6, first_number=1000)
    damage_images(tmp_path / "train", 0, 4)
    seen: list[JobError] = []

    def kept(error: BaseException) -> JobError | None:
        assert isinstance(error, DamagedSample)
        seen.append(error)
        return error

    monkeypatch.setattr(cli, "find_job_error", kept)
    monkeypatch.setattr(Trainer, "_evaluate", lambda _: None)  # which reads samples as well
    words = command(tmp_path, tmp_path / "run", "--local", "--loader-workers", "0")[2:]
    done = job_here(pretrain.run, monkeypatch, capsys)(*words)
    assert done.code == DamagedSample.exit_code
    assert done.err.startswith("error: sample picture-")
    passed = list(dict.fromkeys(_files_of(seen[0].__traceback__)))
    assert (passed[0], passed[-1]) == ("jobs/cli.py", "pipeline/shardset/reader.py")
    assert len(passed[1:-1]) <= DAMAGE_TO_LINE, passed


def _files_of(trace: TracebackType | None) -> Iterator[str]:
    while trace is not None:
        if (name := own_file(trace.tb_frame.f_code)) is not None:
            yield name
        trace = trace.tb_next
