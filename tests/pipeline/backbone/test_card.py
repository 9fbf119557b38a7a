"""The card says what a stranger needs; its code loads the weights beside it."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.backbone.card import model_card, recipe
from pipeline.backbone.folder import load_backbone, write_backbone
from pipeline.backbone.info import BackboneInfo
from pipeline.core.architectures import plain_network
from pipeline.images.preprocessing import HighPass, Preprocessing

CONFIG = {
    "method": {"name": "moco_v2", "hard_negatives": 1},
    "epochs": 20,
    "batch_size": 64,
    "fill": "high_pass",
    "views": {"size": 64},
    "masks": {"strategy": "balanced"},
}


@pytest.mark.parametrize(
    ("architecture", "max_pool"),
    [("resnet18", False), ("convnext_tiny", True), ("timm:test_resnet", True)],
)
def test_it_tells_all_and_its_code_runs(
    tmp_path: Path, architecture: str, max_pool: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if architecture.startswith("timm:"):
        pytest.importorskip("timm", reason="the extra timm is not installed")
    network, feature_dim = plain_network(architecture, max_pool=max_pool)
    info = BackboneInfo(
        architecture=architecture,
        feature_dim=feature_dim,
        max_pool=max_pool,
        preprocessing=Preprocessing(
            view_size=64, resize=73, high_pass=HighPass(kernel=3, sigma=1.4)
        ),
        provenance={"data_digest": "0123456789abcdef", "step": 7, "epochs": 2.5, "config": CONFIG},
    )
    info = write_backbone(tmp_path / "export", network.state_dict(), info)
    card = (tmp_path / "export" / "README.md").read_text()
    for words in (
        f"| weights (sha256) | {info.weights_sha256[:12]} |",
        "| pretraining data (digest) | 0123456789ab |",
        "| trained | 2.5 epochs, 7 steps |",
        "method moco_v2, epochs 20, batch 64, view 64, fill high_pass, masks balanced, hard "
        "negatives 1",
        "shorter side to 73 px",
        "**high-pass**: minus its own Gaussian blur, kernel 3, sigma 1.4",
        "None were measured",
    ):
        assert words in card
    code = re.findall(r"```python\n(.*?)```", card, re.DOTALL)[0]
    made: dict[str, Any] = {}
    monkeypatch.chdir(tmp_path / "export")
    exec(code, made)
    views = torch.randn(2, 3, 64, 64)
    expected = load_backbone(tmp_path / "export")[0](views)
    assert torch.equal(made["network"](views), expected)


def test_little_is_known_and_nothing_drawn() -> None:
    plain = Preprocessing(view_size=64, resize=73)
    info = BackboneInfo(
        architecture="resnet18", feature_dim=512, preprocessing=plain, max_pool=False
    )
    before = torch.get_rng_state()
    card = model_card(info)
    assert torch.equal(torch.get_rng_state(), before)
    assert "| trained | not known |" in card
    assert "high-pass" not in card
    assert recipe({"method": {"name": "byol"}, "views": 3}) == "method byol"
