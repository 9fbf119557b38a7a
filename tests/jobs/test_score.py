"""The command as users type it: a table, a picture, one clear line for bad input."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from jobs.cli import parse
from jobs.score import run
from pipeline.core.errors import InputError
from pipeline.demo.pictures import make_demo_pictures
from pipeline.saliency.boundary import Boundary
from pipeline.saliency.score_report import ScoreConfig
from tests.job_here import Done, job_here
from tests.shard_sets import write_images


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("demo")
    make_demo_pictures(root, num_train=8, num_usual=16, num_changed=8)
    return root


@pytest.fixture
def score(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Done]:
    return job_here(run, monkeypatch, capsys)


def test_the_options_are_a_contract() -> None:
    words = """--images I --masks M --saliency boundary:rounds=1 centre --half report --maps N
        --picture p.png --cases 3 --processes 1"""
    assert parse(ScoreConfig, "score", words.split()) == ScoreConfig(
        images=Path("I"),
        masks=Path("M"),
        saliency=("boundary:rounds=1", "centre"),
        half="report",
        maps=Path("N"),
        picture=Path("p.png"),
        cases=3,
        processes=1,
    )
    source = "scda:weights=random,network=resnet18"
    words = f"--fidelity S --fidelity-source {source} --foreground std"
    expected = ScoreConfig(fidelity="S", fidelity_source=source, foreground="std")
    assert parse(ScoreConfig, "score", words.split()) == expected
    default = ScoreConfig(images=Path("I"), masks=Path("M"))
    assert (default.saliency, default.half) == (("boundary", "centre"), "all")


ALONE = "--images and --masks, or --fidelity SHARDS by itself"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"saliency": ()}, "one source or more"),
        ({"saliency": ("centre", "centre")}, "each once"),
        ({"saliency": ("boundary:colour=1",)}, "no option 'colour'"),
        ({"saliency": ("external:second_look=true",)}, "takes masks as they are, leave"),
        ({"picture": Path("p.jpg")}, r"name of a \.png"),
        ({"images": None, "masks": None}, ALONE),
        ({"masks": None}, ALONE),
        ({"fidelity": Path("S"), "images": None}, ALONE),
        ({"fidelity": Path("S")}, ALONE),
    ],
)
def test_values_that_do_not_fit_are_refused(changes: dict[str, object], words: str) -> None:
    given = {"images": Path("I"), "masks": Path("M")} | changes
    with pytest.raises(InputError, match=words):
        ScoreConfig(**given)  # type: ignore[arg-type]


def test_a_table_and_a_picture(demo: Path, tmp_path: Path, score: Callable[..., Done]) -> None:
    (missing := demo / "pictures" / "usual" / "extra").mkdir(exist_ok=True)
    cv2.imwrite(str(missing / "lost.png"), np.zeros((20, 20, 3), np.uint8))
    folders = ("--images", demo / "pictures" / "usual", "--masks", demo / "masks" / "usual")
    picture_file = tmp_path / "new" / "cases.png"
    done = score(
        *(*folders, "--saliency", "boundary", "boundary:prior_sigma=0", "centre", "uniform"),
        *("--picture", picture_file, "--cases", "3", "--processes", "2"),
    )
    assert (done.code, done.err) == (0, "warning: 1 images without a mask: extra/lost.png\n")
    lines = done.out.splitlines()
    assert lines[0].startswith("scoring boundary, boundary:prior_sigma=0, centre, uniform on 16")
    assert lines[-1].startswith(f"picture    {picture_file} ")
    assert re.match(r"boundary: \d+% of 16 maps set an object apart clearly; with", lines[7])
    assert lines[1].startswith("16 images; AUC and IoU on 7 x 7 patches of the ")
    heads = ["source", "AUC", "IoU", "IoU", "56", "small", "max", "F", "MAE", "clear"]
    heads += ["IoU", "rest", "ms/image"]
    assert lines[2].split() == heads
    values = [line.replace("%", "").split() for line in lines[3:7]]
    rows = {name: list(map(float, row)) for name, *row in values}
    assert list(rows) == ["boundary", "boundary:prior_sigma=0", "centre", "uniform"]
    assert rows["boundary"][0] > rows["centre"][0]
    assert rows["uniform"][0] == 0.5
    assert rows["boundary"][2] > rows["centre"][2] > rows["uniform"][2]
    assert rows["uniform"][5] == pytest.approx(0.5)
    assert [row[6] > 50 for row in rows.values()] == [True, True, False, False]  # clear, in %
    clear, iou, iou_clear, iou_rest = (rows["boundary"][i] for i in (6, 1, 7, 8))
    assert iou == pytest.approx(clear / 100 * iou_clear + (1 - clear / 100) * iou_rest, abs=0.01)
    assert all(row[9] >= 0 for row in rows.values())
    picture = cv2.imread(str(picture_file))
    assert picture is not None
    assert picture.shape[0] > 3 * 144
    assert picture.std() > 20

    options = ("--saliency", "uniform", "--processes", "1", "--quiet", "--json", "--half")
    halves = [json.loads(score(*folders, *options, half).out) for half in ("choose", "report")]
    assert sum(half["images"] for half in halves) == 16
    assert all(0 < half["images"] < 16 for half in halves)
    assert all(list(half["sources"]) == ["uniform"] for half in halves)
    assert {"iou_56", "small_56", "iou_clear"} < set(halves[0]["sources"]["uniform"])


def test_bad_input_is_one_clear_line_whichever_process_finds_it(
    demo: Path, tmp_path: Path, score: Callable[..., Done]
) -> None:
    cv2.imwrite(str(tmp_path / "disc-0001.png"), np.zeros((10, 90), np.uint8))
    (tmp_path / "images").mkdir()
    picture = next((demo / "pictures" / "usual").rglob("*.jpg"))
    (tmp_path / "images" / "disc-0001.jpg").write_bytes(picture.read_bytes())
    for processes in ("1", "2"):
        words = ("--images", tmp_path / "images", "--masks", tmp_path, "--processes", processes)
        done = score(*words)
        assert (done.code, done.err.count("\n")) == (2, 1)
        assert "disc-0001.png is 90 x 10, of another aspect than its image" in done.err
        assert done.out.startswith("scoring boundary, centre on 1 images of ")
    done = score("--images", tmp_path / "absent", "--masks", tmp_path)
    assert done == (2, "", f"error: {tmp_path / 'absent'} is not a folder\n")


def test_fidelity_of_a_set(demo: Path, tmp_path: Path, score: Callable[..., Done]) -> None:
    paths = sorted((demo / "pictures" / "usual").rglob("*.jpg"))
    pictures = [cv2.imread(str(path), cv2.IMREAD_COLOR_RGB) for path in paths]
    images = [np.asarray(picture, np.uint8) for picture in pictures]
    write_images(tmp_path, images, [0] * len(images), saliency=Boundary()(images))
    options = ("--fidelity", tmp_path, "--fidelity-size", "64", "--fidelity-grid", "8")
    done = score(*options)
    assert done.code == 2
    assert "source made cannot be computed anew" in done.err
    assert "--fidelity-source" in done.err
    same, flat = (
        json.loads(score(*options, "--fidelity-source", source, "--json").out)
        for source in ("boundary", "uniform")
    )
    assert (same["num_images"], same["num_views"]) == (16, 64)
    assert same["iou"] > same["chance"]
    assert same["interval"][0] < same["iou"] < same["interval"][1]
    assert same["kappa"] > 0.2
    # Flat maps are all foreground: kappa has nothing to agree on.
    assert flat["own_share"] == 1
    assert flat["kappa"] == 0
    assert flat["iou"] == pytest.approx(flat["chance"])
