"""The RayJobs for KubeRay: documented fields only, and true to this project's jobs and versions.

The fields are those of KubeRay's API reference (ray.io/v1, KubeRay 1.5.1 and newer) and of the
Kubernetes core that these files use: a field that is not listed here is refused.
"""

import re
import shlex
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]

from jobs.cli import parse
from jobs.job_server import JOB_STOP_WAIT_S
from jobs.pretrain import read_command_line
from pipeline.precompute.config import PrecomputeConfig
from training.engine.preflight import can_split

ROOT = Path(__file__).resolve().parents[3]
DEPLOY = ROOT / "jobs" / "deploy"
JOBS = ("rayjob_precompute.yaml", "rayjob_pretrain.yaml")

Shape = dict[str, Any]
TEXTS: Shape = {"*": str}
CONTAINER: Shape = {
    "name": str,
    "image": str,
    "env": [{"name": str, "value": str}],
    "ports": [{"name": str, "containerPort": int}],
    "resources": {"requests": TEXTS, "limits": TEXTS},
    "volumeMounts": [{"name": str, "mountPath": str}],
}
POD: Shape = {
    "spec": {
        "securityContext": {
            "runAsUser": int,
            "runAsGroup": int,
            "fsGroup": int,
            "fsGroupChangePolicy": str,
        },
        "containers": [CONTAINER],
        "volumes": [
            {
                "name": str,
                "persistentVolumeClaim": {"claimName": str},
                "emptyDir": {"medium": str, "sizeLimit": str},
            }
        ],
    }
}
RAY_JOB: Shape = {
    "apiVersion": str,
    "kind": str,
    "metadata": {"name": str},
    "spec": {
        "entrypoint": str,
        "backoffLimit": int,
        "submitterConfig": {"backoffLimit": int},
        "shutdownAfterJobFinishes": bool,
        "ttlSecondsAfterFinished": int,
        "rayClusterSpec": {
            "rayVersion": str,
            "authOptions": {"mode": str},
            "headGroupSpec": {"rayStartParams": TEXTS, "template": POD},
            "workerGroupSpecs": [
                {
                    "groupName": str,
                    "replicas": int,
                    "minReplicas": int,
                    "maxReplicas": int,
                    "rayStartParams": TEXTS,
                    "template": POD,
                }
            ],
        },
    },
}
CLAIM: Shape = {
    "apiVersion": str,
    "kind": str,
    "metadata": {"name": str},
    "spec": {
        "accessModes": [str],
        "storageClassName": str,
        "resources": {"requests": TEXTS},
    },
}


def unknown(found: object, shape: object, where: str = "") -> list[str]:
    """The fields that a shape does not know, and the values that it does not take."""
    if isinstance(shape, dict) and isinstance(found, dict):
        wrong = []
        for name, value in found.items():
            if name in shape or "*" in shape:
                wrong += unknown(value, shape.get(name, shape.get("*")), f"{where}.{name}")
            else:
                wrong.append(f"{where}.{name}")
        return wrong
    if isinstance(shape, list) and isinstance(found, list):
        return [
            line for n, one in enumerate(found) for line in unknown(one, shape[0], f"{where}[{n}]")
        ]
    right = isinstance(shape, type) and type(found) is shape
    return [] if right else [f"{where} is {found!r}"]


def load(name: str) -> dict[str, Any]:
    loaded = yaml.safe_load((DEPLOY / name).read_text())
    assert isinstance(loaded, dict)
    return loaded


def pods(job: dict[str, Any]) -> list[dict[str, Any]]:
    """The pods' specifications, the head's first."""
    cluster = job["spec"]["rayClusterSpec"]
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    return [group["template"]["spec"] for group in groups]


def versions() -> tuple[str, str]:
    """Of Ray, as it is pinned, and of the project."""
    (ray,) = re.findall(r"^ray==(.+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return ray, project["version"]


@pytest.mark.parametrize("name", JOBS)
def test_only_documented_fields(name: str) -> None:
    job = load(name)
    assert unknown(job, RAY_JOB) == []
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    claim = load("volume.yaml")
    assert unknown(claim, CLAIM) == []
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]


def test_an_unknown_field_and_a_wrong_type_are_seen() -> None:
    job = load(JOBS[0])
    job["spec"]["ttlSecondsAfterFinish"] = 5
    job["spec"]["backoffLimit"] = "3"
    assert unknown(job, RAY_JOB) == [".spec.backoffLimit is '3'", ".spec.ttlSecondsAfterFinish"]


@pytest.mark.parametrize("name", JOBS)
def test_ray_is_the_one_that_is_pinned_everywhere(name: str) -> None:
    ray, project = versions()
    job = load(name)
    image = f"salmask:{project}-ray{ray}"
    assert job["spec"]["rayClusterSpec"]["rayVersion"] == ray
    assert {box["image"] for pod in pods(job) for box in pod["containers"]} == {image}
    assert f"-t {image} ." in (DEPLOY / "Dockerfile").read_text()


def test_the_image_has_a_python_that_the_project_takes_and_the_pods_user() -> None:
    dockerfile = (DEPLOY / "Dockerfile").read_text()
    base = re.search(r"^FROM python:3\.(\d+)-slim", dockerfile, re.MULTILINE)
    uid = re.search(r"useradd .*--uid (\d+)", dockerfile)
    assert base is not None
    assert int(base[1]) >= 11
    assert uid is not None
    for pod in (pod for name in JOBS for pod in pods(load(name))):
        security = pod["securityContext"]
        assert security["runAsUser"] == security["fsGroup"] == int(uid[1])


@pytest.mark.parametrize("name", JOBS)
def test_every_pod_sees_the_same_folders(name: str) -> None:
    head, *workers = pods(load(name))
    claim = load("volume.yaml")["metadata"]["name"]
    for pod in (head, *workers):
        (box,) = pod["containers"]
        mounted = {mount["name"]: mount["mountPath"] for mount in box["volumeMounts"]}
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        assert mounted.keys() == volumes.keys()
        assert volumes["shared"]["persistentVolumeClaim"]["claimName"] == claim
        assert mounted["shared"] == "/shared"
        assert mounted["shm"] == "/dev/shm"
        assert box["volumeMounts"] == head["containers"][0]["volumeMounts"]


@pytest.mark.parametrize("name", JOBS)
def test_relative_paths_are_below_the_shared_folder_too(name: str) -> None:
    head, *_ = pods(load(name))
    (box,) = head["containers"]
    told = {one["name"]: one["value"] for one in box["env"]}
    assert told["SALMASK_ROOT"] in [mount["mountPath"] for mount in box["volumeMounts"]]
    # What `make cluster-up` gives a job that is stopped: time to write a checkpoint.
    assert int(told["RAY_JOB_STOP_WAIT_TIME_S"]) == JOB_STOP_WAIT_S


@pytest.mark.parametrize("name", JOBS)
def test_the_cluster_is_whole_before_the_job_and_gone_after_it(name: str) -> None:
    spec = load(name)["spec"]
    cluster = spec["rayClusterSpec"]
    for group in cluster["workerGroupSpecs"]:
        assert group["minReplicas"] == group["replicas"] == group["maxReplicas"] > 0
    assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    assert cluster["authOptions"]["mode"] == "token"
    assert spec["shutdownAfterJobFinishes"] is True
    assert spec["backoffLimit"] > 0


@pytest.mark.parametrize("name", JOBS)
def test_the_command_is_one_that_no_shell_changes(name: str) -> None:
    entry = load(name)["spec"]["entrypoint"]
    assert re.fullmatch(r"[\w./ =-]+", entry), entry
    assert entry.split()[0] == "python"
    assert (ROOT / entry.split()[1]).is_file()


def test_pretraining_takes_its_command_line_and_fits_its_cluster() -> None:
    job = load("rayjob_pretrain.yaml")
    words = shlex.split(job["spec"]["entrypoint"])
    recipe, local, config = read_command_line(words[2:])
    (gpus,) = job["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    (box,) = gpus["template"]["spec"]["containers"]
    each = int(box["resources"]["limits"]["nvidia.com/gpu"])
    assert not local
    assert config.num_workers == gpus["replicas"] * each
    assert isinstance(config.num_workers, int)
    assert can_split(config, config.num_workers)
    mounts = [mount["mountPath"] for mount in box["volumeMounts"]]
    places = [config.shards, config.out, config.cache.folder]
    assert all(
        any(str(place).startswith(path + "/") or str(place) == path for path in mounts)
        for place in places
    )
    assert recipe == "moco_v2_imagenet100"


def test_precompute_takes_its_command_line_and_writes_what_pretraining_reads() -> None:
    words = shlex.split(load("rayjob_precompute.yaml")["spec"]["entrypoint"])
    config = parse(PrecomputeConfig, "jobs/precompute.py", words[2:])
    _, _, run = read_command_line(
        shlex.split(load("rayjob_pretrain.yaml")["spec"]["entrypoint"])[2:]
    )
    assert str(config.out) == str(run.shards)
    assert run.knn.val_shards is None, "the other RayJob makes one set"
    assert str(config.data).startswith("/shared/")
