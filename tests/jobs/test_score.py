"""The command as users type it: a table, a picture, one clear line for bad input."""

import json
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from jobs.cli import parse
from pipeline.core.errors import InputError
from pipeline.demo.pictures import make_demo_pictures
from pipeline.saliency.boundary import Boundary
from pipeline.saliency.score_report import ScoreConfig, score_report
from pipeline.saliency.scoring import Half
from tests.shard_sets import write_images

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("demo")
    make_demo_pictures(root, num_train=8, num_usual=16, num_changed=8)
    return root


def run_job(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "jobs/score.py", *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )


def test_the_options_are_a_contract() -> None:
    arguments = "--images I --masks M --saliency boundary:rounds=1 centre --half report --maps N"
    more = "--picture p.png --cases 3 --processes 1"
    config = parse(ScoreConfig, "score", [*arguments.split(), *more.split()])
    assert config == ScoreConfig(
        images=Path("I"),
        masks=Path("M"),
        saliency=("boundary:rounds=1", "centre"),
        half="report",
        maps=Path("N"),
        picture=Path("p.png"),
        cases=3,
        processes=1,
    )
    words = "--fidelity S --fidelity-source scda:weights=random,network=resnet18 --foreground std"
    assert parse(ScoreConfig, "score", words.split()) == ScoreConfig(
        fidelity="S",
        fidelity_source="scda:weights=random,network=resnet18",
        foreground="std",
    )
    default = ScoreConfig(images=Path("I"), masks=Path("M"))
    assert (default.saliency, default.half) == (("boundary", "centre"), "all")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"saliency": ("nope",)}, "nope.*known ones are boundary"),
        ({"saliency": ()}, "one source or more"),
        ({"saliency": ("centre", "centre")}, "each once"),
        ({"saliency": ("boundary:colour=1",)}, "no option 'colour'"),
        ({"cases": 0}, "cases must be at least 1"),
        ({"processes": -1}, "processes must not be negative"),
        ({"picture": Path("p.jpg")}, r"name of a \.png"),
    ],
)
def test_values_out_of_range_are_refused(changes: dict[str, object], words: str) -> None:
    with pytest.raises(InputError, match=words):
        ScoreConfig(images=Path("I"), masks=Path("M"), **changes)  # type: ignore[arg-type]


def test_a_table_and_a_picture(demo: Path, tmp_path: Path) -> None:
    (missing := demo / "pictures" / "usual" / "extra").mkdir(exist_ok=True)
    cv2.imwrite(str(missing / "lost.png"), np.zeros((20, 20, 3), np.uint8))
    done = run_job(
        *("--images", demo / "pictures" / "usual", "--masks", demo / "masks" / "usual"),
        *("--saliency", "boundary", "boundary:prior_sigma=0", "centre", "uniform"),
        *("--picture", tmp_path / "new" / "cases.png", "--cases", "3", "--processes", "2"),
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == "warning: 1 images without a mask: extra/lost.png\n"
    lines = done.stdout.splitlines()
    assert lines[0].startswith("scoring boundary, boundary:prior_sigma=0, centre, uniform on 16")
    assert lines[-1].startswith(f"picture    {tmp_path / 'new' / 'cases.png'} ")
    assert lines[1].startswith("16 images; AUC and IoU on 7 x 7 patches of the ")
    assert lines[2].split() == ["source", "AUC", "IoU", "max", "F", "MAE", "ms/image"]
    rows = {line.split()[0]: [float(v) for v in line.split()[1:]] for line in lines[3:7]}
    assert list(rows) == ["boundary", "boundary:prior_sigma=0", "centre", "uniform"]
    assert rows["boundary"][0] > rows["centre"][0]
    assert rows["uniform"][0] == 0.5
    assert rows["uniform"][3] == pytest.approx(0.5)
    assert all(row[4] >= 0 for row in rows.values())
    picture = cv2.imread(str(tmp_path / "new" / "cases.png"))
    assert picture is not None
    assert picture.shape[0] > 3 * 144
    assert picture.std() > 20


def test_halves_add_up(demo: Path) -> None:
    counts = []
    halves: tuple[Half, ...] = ("all", "choose", "report")
    for half in halves:
        config = ScoreConfig(
            images=demo / "pictures" / "usual",
            masks=demo / "masks" / "usual",
            saliency=("uniform",),
            half=half,
            processes=1,
        )
        values, (head, *_) = score_report(config)
        counts.append(values["images"])
        assert head.startswith(f"{counts[-1]} images")
        assert list(values["sources"]) == ["uniform"]
        assert (f"half: {half}" in head) == (half != "all")
    assert counts[0] == counts[1] + counts[2] == 16


def test_a_mask_of_another_aspect_is_one_clear_line(demo: Path, tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "disc-0001.png"), np.zeros((10, 90), np.uint8))
    picture = next((demo / "pictures" / "usual").rglob("*.jpg"))
    images = tmp_path / "images"
    images.mkdir()
    (images / "disc-0001.jpg").write_bytes(picture.read_bytes())
    masks = tmp_path / "masks"
    masks.mkdir()
    (tmp_path / "disc-0001.png").rename(masks / "disc-0001.png")
    for processes in ("1", "2"):
        done = run_job("--images", images, "--masks", masks, "--processes", processes)
        assert done.returncode == 2
        assert done.stderr.count("\n") == 1
        assert "disc-0001.png is 90 x 10, of another aspect than its image" in done.stderr
        assert done.stdout.startswith("scoring boundary, centre on 1 images of ")


def test_folders_that_are_not_there_are_one_clear_line(tmp_path: Path) -> None:
    done = run_job("--images", tmp_path / "absent", "--masks", tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"error: {tmp_path / 'absent'} is not a folder\n"


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"images": Path("I")},
        {"fidelity": Path("S"), "masks": Path("M")},
        {"images": Path("I"), "masks": Path("M"), "fidelity": Path("S")},
    ],
)
def test_masks_or_fidelity(given: dict[str, Path]) -> None:
    with pytest.raises(InputError, match="--images and --masks, or --fidelity SHARDS by itself"):
        ScoreConfig(**given)  # type: ignore[arg-type]


def test_fidelity_of_a_set(demo: Path, tmp_path: Path) -> None:
    pictures = [
        cv2.imread(str(path), cv2.IMREAD_COLOR_RGB)
        for path in sorted((demo / "pictures" / "usual").rglob("*.jpg"))
    ]
    images = [np.asarray(picture, np.uint8) for picture in pictures]
    write_images(tmp_path, images, [0] * len(images), saliency=Boundary()(images))
    options = ("--fidelity", tmp_path, "--fidelity-size", "64", "--fidelity-grid", "8")
    done = run_job(*options)
    assert done.returncode == 2
    assert "source made cannot be computed anew" in done.stderr
    assert "--fidelity-source" in done.stderr

    found = {}
    for source in ("boundary", "uniform"):
        done = run_job(*options, "--fidelity-source", source, "--json")
        assert done.returncode == 0, done.stderr
        found[source] = json.loads(done.stdout)
    same, flat = found["boundary"], found["uniform"]
    assert (same["num_images"], same["num_views"]) == (16, 64)
    assert same["iou"] > same["chance"]
    assert same["interval"][0] < same["iou"] < same["interval"][1]
    assert same["kappa"] > 0.2
    # Flat maps are all foreground: kappa has nothing to agree on.
    assert flat["own_share"] == 1
    assert flat["kappa"] == 0
    assert flat["iou"] == pytest.approx(flat["chance"])
