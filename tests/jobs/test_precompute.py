"""The command as users type it: options, one clear line for bad input, nothing written."""

from collections.abc import Callable
from pathlib import Path

import pytest

from jobs.cli import parse
from jobs.precompute import run
from pipeline.precompute.config import PrecomputeConfig
from pipeline.precompute.run import run_precompute
from tests.job_here import Done, job_here
from tests.picture_folders import write_pictures


@pytest.fixture
def job(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Done]:
    return job_here(run, monkeypatch, capsys)


def test_the_options_are_a_contract() -> None:
    words = """--data s3://b/x?region=r --out gs://b/y --saliency external --masks M --no-labels
        --shard-images 8 --shard-mib 2 --saliency-size 28 --max-rejected-fraction 0.5
        --max-pixels 100 --image-column i --label-column l --append --resize-short 256
        --missing-masks uniform"""
    assert parse(PrecomputeConfig, "precompute", words.split()) == PrecomputeConfig(
        data="s3://b/x?region=r",
        out="gs://b/y",
        saliency="external",
        masks="M",
        labels=False,
        shard_images=8,
        shard_mib=2,
        saliency_size=28,
        max_rejected_fraction=0.5,
        max_pixels=100,
        image_column="i",
        label_column="l",
        append=True,
        resize_short=256,
        missing_masks="uniform",
    )
    default = PrecomputeConfig(data=Path("D"), out=Path("O"))
    assert (default.saliency, default.labels, default.shard_images) == ("boundary", True, 256)
    assert (default.shard_mib, default.max_rejected_fraction) == (256, 0.05)
    assert (default.resize_short, default.append, default.missing_masks) == (None, False, "error")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--data nowhere --out out", "no such folder: {here}/nowhere"),
        ("--data http://x/y --out out", "http://x/y: http:// is not supported: use a local path,"),
        ("--data . --out out --saliency nope", "unknown saliency source 'nope': the known ones"),
        ("--data . --out out --processes 2", "--processes is for --verify"),
        ("--verify nowhere", "no such folder"),
        ("--verify . --processes -1", "processes must be at least 0"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    job: Callable[..., Done],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    words: str,
    said: str,
) -> None:
    monkeypatch.setenv("SALMASK_ROOT", str(tmp_path))
    done = job(*words.split())
    assert done.code == 2
    assert done.err.startswith("error: ")
    assert said.format(here=tmp_path) in done.err
    assert done.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_verify_exits_with_1_where_anything_is_wrong(
    job: Callable[..., Done], tmp_path: Path
) -> None:
    write_pictures(tmp_path / "data", 5)
    out = tmp_path / "out"
    config = PrecomputeConfig(data=tmp_path / "data", out=out, saliency="centre", shard_images=3)
    run_precompute(config)
    whole = job("--verify", out)
    assert (whole.code, whole.err) == (0, "")
    assert "2 shards, 5 images, 0 rejected:" in whole.out
    assert whole.out.endswith(f"results    {out}: nothing is wrong\n")
    (out / "shards" / "shard-000001.tar").unlink()
    broken = job(f"--verify={out}", "--processes", "1")
    assert (broken.code, broken.err) == (1, "shards/shard-000001.tar is missing\n")
    assert broken.out.endswith(f"results    {out}: 1 problems\n")
    unknown = job("--verify", out, "--data", ".")
    assert unknown.code == 2
    assert "nrecognized" in unknown.err
