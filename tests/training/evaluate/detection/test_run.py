"""The whole protocol on tiny images: results, masks, baselines, and what is refused."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torchvision

from pipeline.backbone.folder import load_info
from pipeline.core.errors import InputError
from pipeline.core.progress import listening
from tests.listeners import Kept
from tests.training.evaluate.cases import CPU, exported, made_result
from tests.training.evaluate.detection.cases import NAMES, TINY, drawn, write_coco, write_voc
from training.evaluate.config import EvaluateConfig
from training.evaluate.detection.boxes import open_boxes
from training.evaluate.detection.network import check_adapter
from training.evaluate.encoders import NamedEncoder
from training.evaluate.results import Result, read_results, table
from training.evaluate.run import evaluate

MEASURES = ("AP", "AP50", "AP75")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> EvaluateConfig:
    folder = tmp_path_factory.mktemp("detection")
    return EvaluateConfig(
        checkpoint=(str(exported(folder / "export")),),
        train=write_voc(folder / "voc", drawn(5)),
        val=write_voc(folder / "val", drawn(4, seed=1)),
        protocol=("detection",),
        results=folder / "results",
        detection=TINY,
    )


def test_every_checkpoint_gets_its_lines(base: EvaluateConfig, tmp_path: Path) -> None:
    """The last one is what `torch.save(resnet18.state_dict())` writes, classifier and all."""
    weights = tmp_path / "supervised.pth"
    torch.manual_seed(5)
    torch.save(torchvision.models.resnet18().state_dict(), weights)
    checkpoints = (*base.checkpoint, "untrained", str(weights))
    config = replace(base, checkpoint=checkpoints, results=tmp_path / "results")
    kept = Kept()
    with listening(kept):
        results = evaluate(config, CPU)
    assert [(one.checkpoint, one.name) for one in results] == [
        (name, f"box {measure}") for name in checkpoints for measure in MEASURES
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
    digests = [one.checkpoint_digest for one in written[::3]]
    assert digests[:2] == [load_info(Path(base.checkpoint[0])).weights_sha256, "random:0"]
    assert len(digests[2]) == 64
    assert [one.encoder for one in written[::3]] == ["query", "untrained", "supervised"]
    assert "box AP50" in table(results)
    assert any("5 images of" in line and "1 images without a box" in line for line in kept.lines)
    # The export was made with seed 0 and never trained: its twin learns the same at any time.
    torch.manual_seed(1)
    with listening(twins := Kept()):
        evaluate(replace(config, checkpoint=checkpoints[:2], results=tmp_path / "twins"), CPU)
    losses, again = ([s.note for s in one.standings if s.note] for one in (kept, twins))
    assert losses[:4] == again
    assert losses[0] == losses[2]


def test_masks_where_the_annotations_hold_them(base: EvaluateConfig, tmp_path: Path) -> None:
    root = write_coco(tmp_path / "coco", drawn(6), masks=True)
    settings = replace(TINY, val_share=0.5, head="c4", norm="frozen")
    config = replace(base, train=root, val=root, results=tmp_path, detection=settings)
    results = evaluate(config, CPU)
    names = [one.name for one in results]
    assert names == [f"{kind} {measure}" for kind in ("box", "mask") for measure in MEASURES]
    assert results[0].variant == "c4"
    assert results[0].settings["with_masks"] is True
    boxes = evaluate(replace(config, detection=replace(settings, masks="no")), CPU)
    assert [one.name for one in boxes] == names[:3]


def test_figures_of_earlier_checkpoints_outlast_a_stop(
    base: EvaluateConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = made_result(protocol="detection", name="box AP")

    def score(encoder: NamedEncoder, *_: object, **__: object) -> list[Result]:
        if encoder.name == "untrained":
            raise KeyboardInterrupt
        return [first]

    monkeypatch.setattr("training.evaluate.detection.run._score", score)
    config = replace(base, checkpoint=(*base.checkpoint, "untrained"), results=tmp_path)
    with pytest.raises(KeyboardInterrupt):
        evaluate(config, CPU)
    assert read_results(tmp_path) == [first]


def refused(base: EvaluateConfig, message: str, **changes: object) -> None:
    with pytest.raises(InputError, match=message):
        evaluate(replace(base, **changes), CPU)  # type: ignore[arg-type]
    assert not base.results.exists(), "a result was written"


def test_bad_input(base: EvaluateConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refused(base, "give --detection.val-share", val=base.train)
    refused(base, "torchvision takes the network from another", checkpoint=("torchvision",))
    refused(base, "no such file", checkpoint=(base.checkpoint[0], "nowhere.pth"))
    masks = replace(TINY, masks="yes")
    refused(base, "masks yes, but not every box of .* has a mask", detection=masks)
    other = exported(tmp_path / "other", "mobilenet_v3_small")
    refused(base, "no adapter for mobilenet_v3_small", checkpoint=(*base.checkpoint, str(other)))
    with pytest.raises(InputError, match=r"no adapter for timm:resnet18: .*, regnet, "):
        check_adapter("timm:resnet18")
    refused(base, "unknown class", detection=replace(TINY, classes=("square",)))
    with monkeypatch.context() as patch:
        patch.setattr("training.evaluate.run.world_size", lambda: 2)
        refused(base, "one process, not in 2")
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "pycocotools.mask", None)
        refused(base, r"needs pycocotools, .* salmask\[detection\]")
