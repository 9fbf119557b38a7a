"""The whole protocol on tiny images: results, masks, baselines, and what is refused."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torchvision

from pipeline.backbone.folder import load_info
from pipeline.core.errors import InputError
from pipeline.core.progress import listening
from tests.listeners import Kept
from tests.training.evaluate.detection.cases import NAMES, drawn, write_coco, write_voc
from training.encoders.encoder import build_backbone
from training.encoders.export import export_backbone
from training.encoders.settings import EncoderConfig
from training.evaluate.config import EvaluateConfig
from training.evaluate.detection import coco_tools
from training.evaluate.detection.box_sets import open_boxes
from training.evaluate.detection_config import DetectionConfig
from training.evaluate.results import read_results, table
from training.evaluate.run import evaluate

CPU = torch.device("cpu")
TINY = DetectionConfig(
    short_sides=(48,),
    long_side=64,
    steps=2,
    batch_size=2,
    warmup_steps=1,
    width=8,
    head_width=16,
    smallest_anchor=8,
    proposals=10,
    sampled=8,
)


def export(folder: Path, architecture: str = "resnet18") -> Path:
    torch.manual_seed(0)
    config = EncoderConfig(
        architecture=architecture, stem="small" if architecture == "resnet18" else "standard"
    )
    backbone = build_backbone(config)
    export_backbone(folder, backbone, config, view_size=32, high_pass=None, provenance={})
    return folder


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> EvaluateConfig:
    folder = tmp_path_factory.mktemp("detection")
    return EvaluateConfig(
        checkpoint=(str(export(folder / "export")),),
        train=write_voc(folder / "voc", drawn(5)),
        val=write_voc(folder / "val", drawn(4, seed=1)),
        protocol=("detection",),
        results=folder / "results",
        detection=TINY,
    )


def test_every_checkpoint_gets_its_lines(base: EvaluateConfig, tmp_path: Path) -> None:
    config = replace(base, checkpoint=(*base.checkpoint, "untrained"), results=tmp_path / "results")
    kept = Kept()
    with listening(kept):
        results = evaluate(config, CPU)
    assert [(one.checkpoint, one.name) for one in results] == [
        (name, f"box {measure}") for name in config.checkpoint for measure in ("AP", "AP50", "AP75")
    ]
    written = read_results(config.results)
    assert [one.figure for one in written] == [one.figure for one in results]
    train_set, val_set = open_boxes(config.train), open_boxes(config.val)
    for one in written:
        assert one.interval is not None
        assert one.interval[0] <= one.interval[1]
        assert (one.protocol, one.variant, one.seed) == ("detection", "fpn", 0)
        assert (one.train_digest, one.val_digest) == (train_set.digest, val_set.digest)
        assert (one.num_train, one.num_val) == (5, 4)
        assert one.settings["classes"] == list(NAMES)
        assert one.settings["steps"] == 2
    assert written[0].checkpoint_digest == load_info(Path(base.checkpoint[0])).weights_sha256
    assert written[3].checkpoint_digest == "random:0"
    assert "box AP50" in table(results)
    assert any("5 images of" in line and "1 images without a box" in line for line in kept.lines)
    # The export was made with seed 0 and never trained: its twin learns the same.
    assert [one.figure for one in results[:3]] == [one.figure for one in results[3:]]


def test_masks_where_the_annotations_hold_them(base: EvaluateConfig, tmp_path: Path) -> None:
    root = write_coco(tmp_path / "coco", drawn(6), masks=True)
    config = replace(
        base,
        train=root,
        val=root,
        results=tmp_path / "results",
        detection=replace(TINY, val_share=0.5, head="c4"),
    )
    results = evaluate(config, CPU)
    names = [one.name for one in results]
    assert names == [f"{kind} {m}" for kind in ("box", "mask") for m in ("AP", "AP50", "AP75")]
    assert results[0].variant == "c4"
    assert results[0].settings["with_masks"] is True
    boxes = evaluate(replace(config, detection=replace(config.detection, masks="no")), CPU)
    assert [one.name for one in boxes] == names[:3]


@pytest.fixture
def weights_file(base: EvaluateConfig, tmp_path: Path) -> Path:
    """What `torch.save(resnet18.state_dict())` writes, classifier and all."""
    torch.manual_seed(5)
    torch.save(torchvision.models.resnet18().state_dict(), tmp_path / "supervised.pth")
    return tmp_path / "supervised.pth"


def test_supervised_weights_from_a_file(
    base: EvaluateConfig, tmp_path: Path, weights_file: Path
) -> None:
    config = replace(
        base,
        checkpoint=(*base.checkpoint, str(weights_file)),
        results=tmp_path / "results",
        detection=replace(TINY, norm="frozen"),
    )
    results = evaluate(config, CPU)
    assert {one.encoder for one in results[3:]} == {"supervised"}
    assert results[3].checkpoint_digest != results[0].checkpoint_digest
    assert len(results[3].checkpoint_digest) == 64


def refused(base: EvaluateConfig, message: str, **changes: object) -> None:
    with pytest.raises(InputError, match=message):
        evaluate(replace(base, **changes), CPU)  # type: ignore[arg-type]
    assert not base.results.exists(), "a result was written"


def test_bad_input(base: EvaluateConfig, tmp_path: Path) -> None:
    refused(base, "give --detection.val-share", val=base.train)
    refused(base, "torchvision takes the network from another", checkpoint=("torchvision",))
    refused(base, "no such file", checkpoint=(base.checkpoint[0], "nowhere.pth"))
    masks = replace(TINY, masks="yes")
    refused(base, "masks yes, but not every box of .* has a mask", detection=masks)
    refused(base, "no folder .*nowhere", checkpoint=(str(tmp_path / "nowhere"),))
    other = export(tmp_path / "other", "mobilenet_v3_small")
    refused(base, "no adapter for mobilenet_v3_small", checkpoint=(*base.checkpoint, str(other)))
    unknown = replace(TINY, classes=("square",))
    refused(base, "unknown class", detection=unknown)
    source, bare = Path(base.checkpoint[0]), tmp_path / "bare"
    bare.mkdir()
    (bare / "backbone.pth").write_bytes((source / "backbone.pth").read_bytes())
    refused(base, "lost their preprocessing", checkpoint=(str(bare),))
    info = json.loads((source / "backbone.json").read_text())
    del info["preprocessing"]
    (bare / "backbone.json").write_text(json.dumps(info))
    refused(base, "preprocessing", checkpoint=(str(bare),))


def test_one_process(base: EvaluateConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.evaluate.run.world_size", lambda: 2)
    refused(base, "one process, not in 2")


def test_without_pycocotools(base: EvaluateConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise ModuleNotFoundError(f"No module named {name!r}")

    coco_tools.coco_tools.cache_clear()
    monkeypatch.setattr("importlib.import_module", missing)
    refused(base, r"needs pycocotools, .* salmask\[detection\]")
    coco_tools.coco_tools.cache_clear()


def test_a_run_that_breaks_off_leaves_no_line(
    base: EvaluateConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("training.evaluate.detection.run.detect", killed)
    with pytest.raises(KeyboardInterrupt):
        evaluate(base, CPU)
    assert not base.results.exists()
