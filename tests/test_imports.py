"""Imports point one way, and Ray stays in the rooms that may know it."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("pipeline", "training", "jobs")
MAY_IMPORT_RAY = {
    "pipeline/precompute/ray_job.py",
    "pipeline/precompute/ray_session.py",
    "training/ray/launch.py",
    "training/ray/nodes.py",
    "training/ray/waiting.py",
    "training/sweep/trainable.py",
    "training/sweep/tune.py",
}
FORMAT_HALF = {
    "pipeline.core.architectures",
    "pipeline.storage.atomic",
    "pipeline.backbone.folder",
    "pipeline.backbone.formats.write",
    "pipeline.backbone.image_encoder",
    "pipeline.core.image_names",
    "pipeline.backbone.card",
    "pipeline.images.codecs",
    "pipeline.core.errors",
    "pipeline.images.gaussian",
    "pipeline.shardset.manifest",
    "pipeline.core.memory",
    "pipeline.images.preprocessing",
    "pipeline.images.filters",
    "pipeline.core.progress",
    "pipeline.saliency.foreground",
    "pipeline.shardset.schema",
    "pipeline.shardset.cache",
    "pipeline.shardset.reader",
    "pipeline.shardset.shared_images",
    "pipeline.storage.storage",
    "pipeline.shardset.writer",
}


def modules() -> list[str]:
    found = [
        p.relative_to(ROOT).as_posix() for name in PACKAGES for p in (ROOT / name).rglob("*.py")
    ]
    assert found, "no source files found: the test would pass for nothing"
    return sorted(found)


def imports_of(source: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide the direction"
            yield node.module or ""


def violations(path: str, source: str) -> list[str]:
    package = path.split("/")[0]
    wrong = []
    for name in imports_of(source):
        top = name.split(".")[0]
        if top == "ray" and package != "jobs" and path not in MAY_IMPORT_RAY:
            wrong.append(f"{path} imports {name}: only {sorted(MAY_IMPORT_RAY)} and jobs know Ray")
        if package == "pipeline" and top in {"training", "jobs"}:
            wrong.append(f"{path} imports {name}: pipeline is below training and jobs")
        if package == "training" and top == "jobs":
            wrong.append(f"{path} imports {name}: training is below jobs")
        if name == "pipeline.precompute.ray_session" and path in MAY_IMPORT_RAY:
            continue
        if package == "training" and top == "pipeline" and name not in FORMAT_HALF:
            wrong.append(f"{path} imports {name}: training uses the format half of pipeline only")
    return wrong


@pytest.mark.parametrize("path", modules())
def test_imports_point_one_way(path: str) -> None:
    assert violations(path, (ROOT / path).read_text()) == []


@pytest.mark.parametrize("path", [p for p in modules() if p.endswith("__init__.py")])
def test_packages_import_nothing(path: str) -> None:
    assert list(imports_of((ROOT / path).read_text())) == []


def test_the_check_sees_a_wrong_import() -> None:
    assert violations("pipeline/images/codecs.py", "import training.engine.loop")
    assert violations("pipeline/precompute/plan.py", "def f():\n    import ray.data")
    assert violations(
        "training/engine/loop.py", "from pipeline.sources.registry import list_folder"
    )
    launching = "import ray\nfrom training.ray.launch import launch"
    assert not violations("jobs/pretrain.py", launching)
