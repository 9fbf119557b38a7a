"""salmask from Python: the examples of its documentation, and what they leave out."""

import doctest
import importlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import salmask
import torch
from torch.utils.data import DataLoader

from pipeline.core.errors import InputError
from pipeline.core.progress import listening
from tests.picture_folders import write_pictures
from tests.shard_sets import write_shard_set


def examples() -> list[doctest.DocTest]:
    """All examples, those first that others need."""
    finder, found = doctest.DocTestFinder(exclude_empty=True), list[doctest.DocTest]()
    for name in ("pipeline.api", "training.api"):
        found += [one for one in finder.find(importlib.import_module(name)) if one.examples]
    first = ("pipeline.api.precompute", "pipeline.api.ShardSet", "training.api.pretrain")
    return sorted(found, key=lambda one: [one.name != name for name in first])


def test_the_examples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And the features of the run that they leave are those of its backbone, image by image."""
    write_pictures(tmp_path / "pictures", 6)
    monkeypatch.chdir(tmp_path)
    names = {test.name.partition(".api.")[2] for test in examples()}
    assert {name.partition(".")[0] for name in names} == {*salmask.__all__} - {"Sample"}
    for test in examples():
        said: list[str] = []
        with listening(None):
            failed, tried = doctest.DocTestRunner().run(test, out=said.append)
        assert (failed, tried > 0) == (0, True), "".join(said)
    backbone, shards = salmask.load_backbone(salmask.Run("run")), salmask.ShardSet("shards")
    vectors, files = salmask.embed("run", shards)
    assert files == shards.names
    images = [torch.from_numpy(sample.image).permute(2, 0, 1) for sample in shards]
    with torch.no_grad():
        alone = torch.cat([backbone(image) for image in images])
    # Channels last: other kernels, another order of sums.
    differs = (torch.from_numpy(vectors) - alone).norm(dim=1)
    assert float((differs / alone.norm(dim=1)).max()) < 1e-5


def run_python(code: str, at: Path) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONSAFEPATH"}
    command = [sys.executable, "-c", code]
    return subprocess.run(
        command, cwd=at, env=environment, capture_output=True, text=True, check=False
    )


def test_nothing_is_imported_before_it_is_used(tmp_path: Path) -> None:
    code = "import salmask, sys; print({'torch', 'ray', 'cv2', 'pipeline'} & set(sys.modules)); "
    code += "print(dir(salmask) == salmask.__all__, salmask.ShardSet.__module__); salmask.nothing"
    done = run_python(code, tmp_path)
    assert done.stdout == "set()\nTrue pipeline.api\n", done.stderr
    assert done.stderr.endswith("AttributeError: module 'salmask' has no attribute 'nothing'\n")


def test_another_package_in_the_way_is_named(tmp_path: Path) -> None:
    other = tmp_path / "training"
    other.mkdir()
    assert run_python("import salmask", tmp_path).returncode == 0, "no package yet"
    (other / "__init__.py").touch()
    done = run_python("import salmask", tmp_path)
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last.startswith("ImportError: salmask wants its own package 'training', ")
    assert f"and Python finds {other} first: work in another folder" in last


def test_a_shard_set_is_a_sequence_and_the_library_reads_the_same(tmp_path: Path) -> None:
    write_shard_set(tmp_path / "set", num_images=10, shard_images=4)
    write_shard_set(tmp_path / "bare", num_images=2, labels=False)
    shards, bare = salmask.ShardSet(tmp_path / "set"), salmask.ShardSet(str(tmp_path / "bare"))
    assert (len(shards), len(list(shards))) == (10, 10)
    assert np.array_equal(shards[-1].image, shards[9].image)
    assert [label for *_, label in bare] == [-1, -1]
    assert repr(bare) == "ShardSet(bare: 2 images, no labels)"
    for number in (10, -11):
        with pytest.raises(IndexError, match="no sample"):
            shards[number]
    for whole in (shards, bare):
        theirs = list(whole.as_webdataset())
        assert len(theirs) == len(whole)
        for ours, (image, saliency, label) in zip(whole, theirs, strict=True):
            assert np.array_equal(ours.image, image)
            assert np.array_equal(ours.saliency, saliency)
            assert label == ours.label
    loaded = DataLoader(shards.as_webdataset(), batch_size=None, num_workers=0)
    assert sorted(int(label) for *_, label in loaded) == sorted(label for *_, label in shards)
    with pytest.raises(InputError, match=r"no shards at .*gone"):
        salmask.ShardSet(tmp_path / "gone")


def test_options_of_a_pretraining(tmp_path: Path) -> None:
    """Everything is checked before a step, and names are proposed."""
    write_shard_set(tmp_path / "set", num_images=6)
    out = tmp_path / "out"
    for options, message in (
        ({"epoch": 3}, "there is no field 'epoch': did you mean epochs"),
        ({"views": {"sise": 3}}, "there is no field 'views.sise': did you mean"),
        ({"recipe": "nope"}, "unknown recipe 'nope'"),
        ({"method": "nope"}, "nope"),
        ({"method": {"rho": 1.0}}, "--method.rho has no effect beside"),
        ({"epochs": 1}, "fewer than one global batch of 64"),
        ({"method": "moco_v2", "batch_size": 6, "method.queue_size": 7}, "queue_size 7"),
    ):
        with pytest.raises(InputError, match=message):
            salmask.pretrain(tmp_path / "set", out, **options)
        assert not out.exists()
    with pytest.raises(TypeError, match="salency"):
        salmask.precompute(tmp_path, tmp_path / "x", salency="centre")
