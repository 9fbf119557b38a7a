"""Query and momentum encoder of a run, as plain networks."""

import json
from pathlib import Path

import pytest
import torch

from pipeline.backbone.folder import load_backbone, load_info, weights_digest
from pipeline.backbone.formats.write import write_formats
from pipeline.core.errors import InputError
from tests.runs import run, small_run
from tests.shard_sets import write_shard_set
from training.core.checkpoint import CheckpointStore
from training.encoders.export import find_checkpoint, load_encoder
from training.evaluate.subject import load_subjects
from training.methods.byol.settings import BYOLConfig
from training.methods.moco.settings import MoCoConfig
from training.methods.settings import MethodConfig
from training.methods.simclr.settings import SimCLRConfig

VIEWS = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
METHODS: dict[str, MethodConfig] = {
    "moco_v2": MoCoConfig(queue_size=64, batch_norm_group=4, object_head="both"),
    "byol": BYOLConfig(batch_norm_group=4, head_width=32, predictor_width=32),
    "simclr": SimCLRConfig(batch_norm_group=4),
}


@pytest.fixture(scope="module", params=METHODS)
def kept(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one epoch."""
    folder = tmp_path_factory.mktemp(request.param)
    write_shard_set(folder / "train", num_images=16)
    write_shard_set(folder / "val", num_images=6, first_number=100)
    run(small_run(folder / "train", folder / "run", epochs=1, method=METHODS[request.param]))
    return folder / "run"


def test_the_query_encoder_is_the_export(kept: Path) -> None:
    for path in (kept, kept / "backbone", find_checkpoint(kept)):
        network, info = load_encoder(path)
        expected, told = load_backbone(kept / "backbone")
        assert info == told
        assert torch.equal(network(VIEWS), expected(VIEWS))


def test_weights_have_one_digest_wherever_they_lie(kept: Path, tmp_path: Path) -> None:
    load_file = pytest.importorskip("safetensors.torch", reason="no extra export").load_file
    network, info = load_encoder(kept)
    assert load_info(kept / "backbone").weights_sha256 == info.weights_sha256
    assert load_info(find_checkpoint(kept) / "backbone").weights_sha256 == info.weights_sha256
    written = write_formats(tmp_path / "out", network, info, ["safetensors", "timm"])
    assert written == load_encoder(tmp_path / "out")[1] == info
    files = ("backbone.safetensors", "timm/model.safetensors")
    states = [load_file(tmp_path / "out" / name) for name in files]
    states.append(torch.load(kept / "backbone" / "backbone.pth", weights_only=True))
    assert {weights_digest(state) for state in states} == {info.weights_sha256}
    names = (str(kept), str(kept / "backbone" / "backbone.pth"))
    subjects = load_subjects(names, encoder="query", seed=0, device=torch.device("cpu"))
    assert {subject.digest for subject in subjects} == {info.weights_sha256}


def test_the_run_leaves_a_card_that_tells_of_it(kept: Path) -> None:
    config = json.loads((kept / "config.json").read_text())
    for folder in (kept, find_checkpoint(kept)):
        card = (folder / "backbone" / "README.md").read_text()
        assert f"| pretraining data (digest) | {config['data_digest'][:12]} |" in card
        assert "| trained | 1 epochs, 2 steps |" in card
        assert f"method {config['method']['name']}, epochs 1, batch 8, view 32, stem small" in card


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


def test_an_evaluation_takes_it_by_name(kept: Path) -> None:
    names, cpu = (str(kept), "untrained"), torch.device("cpu")
    if "simclr" in str(kept):
        with pytest.raises(InputError, match=r"simclr has none"):
            load_subjects(names, encoder="momentum", seed=0, device=cpu)
        return
    subject, twin = load_subjects(names, encoder="momentum", seed=0, device=cpu)
    network, info = load_encoder(kept, "momentum")
    assert (subject.encoder, subject.digest) == ("momentum", info.weights_sha256)
    assert torch.equal(subject.network(VIEWS), network(VIEWS))
    assert (twin.encoder, twin.digest) == ("untrained", "random:0")


def test_an_export_has_no_momentum_encoder(kept: Path) -> None:
    with pytest.raises(InputError, match="kept in checkpoints only"):
        load_encoder(kept / "backbone", "momentum")
