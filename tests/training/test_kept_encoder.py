"""Query and momentum encoder of a run, as plain networks."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from pipeline.backbone import load_backbone
from pipeline.errors import InputError
from tests.runs import run, small_run
from tests.shard_sets import write_shard_set
from training.checkpoint import CheckpointStore
from training.kept_encoder import find_checkpoint, load_encoder
from training.methods.byol import BYOLConfig
from training.methods.simclr import SimCLRConfig

VIEWS = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
METHODS = {
    "moco_v2": ("moco", None),
    "byol": ("byol", BYOLConfig(batch_norm_group=4, head_width=32, predictor_width=32)),
    "simclr": ("simclr", SimCLRConfig(batch_norm_group=4)),
}


@pytest.fixture(scope="module", params=METHODS)
def kept(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one epoch."""
    folder = tmp_path_factory.mktemp(request.param)
    write_shard_set(folder / "train", num_images=16)
    write_shard_set(folder / "val", num_images=6, first_number=100)
    section, settings = METHODS[request.param]
    config = replace(small_run(folder / "train", folder / "run"), epochs=1, method=request.param)
    run(config if settings is None else replace(config, **{section: settings}))  # type: ignore[arg-type]
    return folder / "run"


def test_the_query_encoder_is_the_export(kept: Path) -> None:
    for path in (kept, kept / "backbone", find_checkpoint(kept)):
        network, info = load_encoder(path)
        expected, told = load_backbone(kept / "backbone")
        assert info == told
        assert torch.equal(network(VIEWS), expected(VIEWS))


def test_the_momentum_encoder(kept: Path) -> None:
    latest = CheckpointStore(kept / "checkpoints", keep=1).latest()
    assert latest is not None
    if "simclr" in str(kept):
        with pytest.raises(InputError, match=r"no momentum encoder \(simclr has none"):
            load_encoder(kept, "momentum")
        return
    network, info = load_encoder(kept, "momentum")
    query, told = load_encoder(kept)
    again, same = load_encoder(latest, "momentum")
    assert info == same
    assert torch.equal(network(VIEWS), again(VIEWS))
    assert info.provenance["encoder"] == "momentum"
    assert info.weights_sha256 != told.weights_sha256
    assert info.preprocessing == told.preprocessing
    # A copy that lags behind: another one.
    first, second = network.get_parameter("conv1.weight"), query.get_parameter("conv1.weight")
    assert not torch.equal(first, second)
    assert first.shape == (64, 3, 7, 7), "the small stem is exported as a plain one"
    state = torch.load(latest / "state.pt", weights_only=True)["method"]
    (name,) = (
        key
        for key in state
        if key.startswith(("key_encoder.", "target.")) and key.endswith("network.conv1.weight")
    )
    assert torch.equal(first[:, :, 2:5, 2:5], state[name])


def test_an_export_has_no_momentum_encoder(kept: Path) -> None:
    with pytest.raises(InputError, match="kept in checkpoints only"):
        load_encoder(kept / "backbone", "momentum")
