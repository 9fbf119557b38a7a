"""The card says what a stranger needs; its code loads the weights beside it."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from pipeline.backbone.card import model_card, recipe
from pipeline.backbone.folder import load_backbone
from training.encoders.encoder import build_backbone
from training.encoders.export import export_backbone
from training.encoders.settings import EncoderConfig

CONFIG = {
    "method": {"name": "moco_v2", "hard_negatives": 1},
    "epochs": 20,
    "batch_size": 64,
    "fill": "high_pass",
    "views": {"size": 64},
    "masks": {"strategy": "balanced"},
}


def card_of(folder: Path, architecture: str, *, max_pool: bool = True) -> str:
    config = EncoderConfig(architecture=architecture, max_pool=max_pool)
    export_backbone(
        folder,
        build_backbone(config),
        config,
        view_size=64,
        high_pass=(3, 1.4),
        provenance={"data_digest": "0123456789abcdef", "step": 7, "epochs": 2.5, "config": CONFIG},
    )
    return (folder / "README.md").read_text()


def test_what_it_tells(tmp_path: Path) -> None:
    card = card_of(tmp_path / "export", "resnet18")
    info = load_backbone(tmp_path / "export")[1]
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


def test_a_recipe_without_its_fields() -> None:
    assert recipe({"method": {"name": "byol"}, "views": 3}) == "method byol"


@pytest.mark.parametrize(
    ("architecture", "max_pool"),
    [("resnet18", False), ("convnext_tiny", True), ("timm:test_resnet", True)],
)
def test_its_code_runs_beside_the_weights(
    tmp_path: Path, architecture: str, max_pool: bool
) -> None:
    if architecture.startswith("timm:"):
        pytest.importorskip("timm", reason="the extra timm is not installed")
    card = card_of(tmp_path / "export", architecture, max_pool=max_pool)
    code = re.findall(r"```python\n(.*?)```", card, re.DOTALL)[0]
    views = torch.randn(2, 3, 64, 64)
    torch.save(views, tmp_path / "views.pt")
    rest = "torch.save(network(torch.load('../views.pt')), '../features.pt')"
    subprocess.run([sys.executable, "-c", code + rest], cwd=tmp_path / "export", check=True)
    expected = load_backbone(tmp_path / "export")[0](views)
    assert torch.equal(torch.load(tmp_path / "features.pt"), expected)


def test_writing_one_draws_nothing(tmp_path: Path) -> None:
    card_of(tmp_path / "export", "resnet18", max_pool=False)
    info = load_backbone(tmp_path / "export")[1]
    before = torch.get_rng_state()
    model_card(info)
    assert torch.equal(torch.get_rng_state(), before)
