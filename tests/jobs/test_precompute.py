"""The command as users type it: options, one clear line for bad input, nothing written."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from jobs.cli import parse
from pipeline.core.errors import InputError
from pipeline.precompute.ray_job import PrecomputeConfig
from tests.deadly import write_pictures
from tests.precompute_here import precompute_here

ROOT = Path(__file__).resolve().parents[2]


def run_job(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "jobs/precompute.py", *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_the_options_are_a_contract() -> None:
    arguments = "--data D --out O --saliency spectral_residual --no-labels --shard-images 8"
    more = "--shard-mib 2 --saliency-size 28 --max-rejected-fraction 0.5 --max-pixels 100"
    more += " --image-column i --label-column l --append --resize-short 256"
    config = parse(PrecomputeConfig, "precompute", [*arguments.split(), *more.split()])
    assert config == PrecomputeConfig(
        data="D",
        out="O",
        saliency="spectral_residual",
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
    )
    masks = "--data s3://b/x?region=r --out gs://b/y --saliency external --masks M"
    config = parse(PrecomputeConfig, "precompute", [*masks.split(), "--missing-masks", "uniform"])
    assert (config.data, config.out, config.masks) == ("s3://b/x?region=r", "gs://b/y", "M")
    assert config.missing_masks == "uniform"
    default = PrecomputeConfig(data=Path("D"), out=Path("O"))
    assert (default.saliency, default.labels, default.shard_images) == ("boundary", True, 256)
    assert (default.shard_mib, default.max_rejected_fraction) == (256, 0.05)
    assert (default.resize_short, default.append, default.missing_masks) == (None, False, "error")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"saliency": "nope"}, "nope.*known ones are boundary"),
        ({"shard_images": 0}, "shard_images must be at least 1"),
        ({"shard_mib": 0}, "shard_mib must be at least 1"),
        ({"max_pixels": 0}, "max_pixels must be at least 1"),
        ({"saliency_size": 4}, r"saliency_size must be in 8\.\.1024"),
        ({"resize_short": 0}, "resize_short must be at least 1"),
        ({"saliency": "external"}, "where the masks are: --masks FOLDER or --mask-column"),
        ({"saliency": "external", "masks": "M", "mask_column": "m"}, "not both"),
        ({"masks": "M"}, "--masks is for --saliency external, not boundary"),
        ({"mask_column": "m"}, "--mask-column is for --saliency external"),
        ({"max_rejected_fraction": 1.5}, r"max_rejected_fraction must be in 0\.\.1"),
    ],
)
def test_ranges_are_checked(changes: dict[str, object], words: str) -> None:
    with pytest.raises(InputError, match=words):
        PrecomputeConfig(data=Path("D"), out=Path("O"), **changes)  # type: ignore[arg-type]


def test_a_missing_folder_is_one_line_and_exit_code_2(tmp_path: Path) -> None:
    done = run_job("--data", tmp_path / "nowhere", "--out", tmp_path / "out")
    assert done.returncode == 2
    assert done.stderr == f"error: no such folder: {tmp_path / 'nowhere'}\n"
    assert done.stdout == ""
    assert list(tmp_path.iterdir()) == []


def test_a_place_of_no_known_kind_is_one_line_and_exit_code_2(tmp_path: Path) -> None:
    done = run_job("--data", "http://x/y", "--out", tmp_path / "out")
    assert done.returncode == 2
    assert done.stderr == (
        "error: http://x/y: http:// is not supported: use a local path, s3://, gs://, az://\n"
    )
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_source_is_one_line_and_exit_code_2(tmp_path: Path) -> None:
    done = run_job("--data", tmp_path, "--out", tmp_path / "out", "--saliency", "nope")
    assert done.returncode == 2
    assert done.stderr.startswith("error: unknown saliency source 'nope': the known ones are ")
    assert done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_verify_exits_with_1_where_anything_is_wrong(tmp_path: Path) -> None:
    write_pictures(tmp_path / "data", 5)
    out = tmp_path / "out"
    precompute_here(
        PrecomputeConfig(data=tmp_path / "data", out=out, saliency="centre", shard_images=3)
    )
    whole = run_job("--verify", out)
    assert whole.returncode == 0, whole.stderr
    assert whole.stderr == ""
    assert "2 shards, 5 images, 0 rejected:" in whole.stdout
    assert whole.stdout.endswith(f"results    {out}: nothing is wrong\n")
    (out / "shards" / "shard-000001.tar").unlink()
    broken = run_job(f"--verify={out}", "--processes", "1")
    assert broken.returncode == 1
    assert broken.stderr == "shards/shard-000001.tar is missing\n"
    assert broken.stdout.endswith(f"results    {out}: 1 problems\n")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--verify", "nowhere"], "no such folder"),
        (["--verify", ".", "--processes", "-1"], "processes must be at least 0"),
        (["--verify", ".", "--data", "."], "nrecognized"),
        (["--verify"], "--verify"),
    ],
)
def test_verify_refuses_bad_options(arguments: list[str], words: str) -> None:
    done = run_job(*arguments)
    assert done.returncode == 2
    assert words in done.stderr
    assert done.stderr.count("\n") == 1 or "For full helptext" in done.stderr  # tyro's box


def test_help_tells_of_verify() -> None:
    assert "--verify" in run_job("--help").stdout
