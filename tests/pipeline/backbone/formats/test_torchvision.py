"""The export as a person uses it who has torchvision and none of our packages."""

import os
import subprocess
import sys
from pathlib import Path

import torch
from torch import Tensor

SCRIPT = """
import json, pathlib, sys, torch, torchvision
from torchvision.transforms.v2 import functional as F
folder, out, *files = map(pathlib.Path, sys.argv[1:])
wanted = json.loads((folder / "backbone.json").read_text())["preprocessing"]
network = torchvision.models.resnet18().eval()
network.fc = torch.nn.Identity()
network.load_state_dict(torch.load(folder / "backbone.pth", weights_only=True))
def view(file):
    image = torchvision.io.decode_image(str(file), "RGB")[None]
    image = F.center_crop(F.resize(image, [wanted["resize"]], antialias=True), wanted["view_size"])
    image = F.normalize(image.float() / 255, wanted["mean"], wanted["std"])
    kernel, sigma = wanted["high_pass"]["kernel"], wanted["high_pass"]["sigma"]
    return image - F.gaussian_blur(image, kernel, sigma)
with torch.no_grad():
    torch.save(torch.cat([network(view(file)) for file in files]), out)
"""
WITHOUT_OURS = """
import sys
sys.modules |= {"pipeline": None, "training": None, "jobs": None}
"""


def test_a_plain_script_gives_the_same_features(
    filtered: Path, files: list[Path], expected: Tensor, tmp_path: Path
) -> None:
    words = [str(word) for word in (filtered, tmp_path / "features.pt", *files)]
    subprocess.run(
        [sys.executable, "-I", "-c", WITHOUT_OURS + SCRIPT, *words],
        cwd=tmp_path,
        env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
        check=True,
    )
    got = torch.load(tmp_path / "features.pt", weights_only=True)
    # torchvision blurs by a convolution, we by a product: sums in another order.
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)
    assert float(expected.std(dim=0).max()) > 0.01, "features that say nothing"


def test_our_packages_are_out_of_the_scripts_reach() -> None:
    done = subprocess.run(
        [sys.executable, "-I", "-c", WITHOUT_OURS + "import pipeline"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "import of pipeline halted" in done.stderr
