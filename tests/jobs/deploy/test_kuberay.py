"""The RayJobs for Kubernetes: documented fields only, true to this project; no cluster is asked.

KubeRay's and Kubernetes' own schemas are not at hand here: a field that is not listed is refused.
KubeRay's fields are those of the API reference of its version 1.7.
"""

import re
import shlex
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]

from jobs.cli import parse
from jobs.final_error import STOP_FINAL
from jobs.local_head import JOB_STOP_WAIT_S
from jobs.pretrain_options import read_command_line
from pipeline.precompute.config import PrecomputeConfig
from training.engine.preflight import can_split

ROOT = Path(__file__).resolve().parents[3]
DEPLOY = ROOT / "jobs" / "deploy"
JOBS = ("rayjob_precompute.yaml", "rayjob_pretrain.yaml")
POD = r"""spec\.(restartPolicy|automountServiceAccountToken
    |securityContext\.(runAsNonRoot|runAsUser|runAsGroup|fsGroup|fsGroupChangePolicy
        |seccompProfile\.type)
    |tolerations\.(key|operator|effect)
    |containers\.(name|image|env\.(name|value)|ports\.(name|containerPort)|volumeMounts\.(name|mountPath)
        |securityContext\.(allowPrivilegeEscalation|capabilities\.drop)
        |resources\.(requests|limits)\.\S+)
    |volumes\.(name|persistentVolumeClaim\.claimName|emptyDir\.(medium|sizeLimit)))"""
INGRESS = r"""networkPolicy\.(mode|head\.ingressRules\.(
    from\.(namespaceSelector|podSelector)\.matchLabels\.\S+|ports\.(protocol|port)))"""
RAY_JOB = rf"""apiVersion|kind|metadata\.(name|labels\.\S+)
    |spec\.(entrypoint|backoffLimit|submitterConfig\.backoffLimit|shutdownAfterJobFinishes
        |activeDeadlineSeconds|preRunningDeadlineSeconds|submitterPodTemplate\.{POD}
        |ttlSecondsAfterFinished|rayClusterSpec\.(rayVersion|authOptions\.mode
            |tlsOptions\.enabled|{INGRESS}|headGroupSpec\.(rayStartParams\.\S+|template\.{POD})
            |workerGroupSpecs\.(groupName|replicas|minReplicas|maxReplicas|rayStartParams\.\S+
                |template\.{POD})))"""
CLAIM = r"""apiVersion|kind|metadata\.name
    |spec\.(accessModes|storageClassName|resources\.requests\.\S+)"""
NUMBERS = r"(runAs(User|Group)|fsGroup|[pP]ort|[rR]eplicas|backoffLimit|\w+Seconds\w*)$"
SWITCHES = r"(runAsNonRoot|automount\w+|allowPrivilegeEscalation|shutdown\w+|enabled)$"


def unknown(found: object, fields: str, where: str = "") -> list[str]:
    """The fields that are not documented, and those with a value of another type."""
    if isinstance(found, dict | list):
        items = found.items() if isinstance(found, dict) else (("", one) for one in found)
        inner = ((f"{where}.{name}".strip("."), value) for name, value in items)
        return [wrong for name, value in inner for wrong in unknown(value, fields, name)]
    kind: type = int if re.search(NUMBERS, where) else str
    kind = bool if re.search(SWITCHES, where) and "labels" not in where else kind
    is_known = re.fullmatch(fields, where, re.VERBOSE) and type(found) is kind
    return [] if is_known else [f"{where} is {found!r}"]


def load(name: str) -> dict[str, Any]:
    loaded = yaml.safe_load((DEPLOY / name).read_text())
    assert isinstance(loaded, dict)
    return loaded


def words_of(name: str) -> list[str]:
    return shlex.split(load(name)["spec"]["entrypoint"])[2:]


def pods(job: dict[str, Any]) -> list[dict[str, Any]]:
    """The specifications of the cluster's pods, the head's first."""
    cluster = job["spec"]["rayClusterSpec"]
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    return [group["template"]["spec"] for group in groups]


def submitter(job: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = job["spec"]["submitterPodTemplate"]["spec"]
    return found


def test_only_documented_fields() -> None:
    jobs = [load(name) for name in JOBS]
    for job in jobs:
        assert unknown(job, RAY_JOB) == []
        assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    claim = load("volume.yaml")
    assert unknown(claim, CLAIM) == []
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
    jobs[0]["spec"] |= {"ttlSecondsAfterFinish": 5, "backoffLimit": "3"}
    wrong = ["spec.backoffLimit is '3'", "spec.ttlSecondsAfterFinish is 5"]
    assert unknown(jobs[0], RAY_JOB) == wrong


@pytest.mark.parametrize("name", JOBS)
def test_the_image_is_the_one_that_is_built_and_ray_the_one_that_is_pinned(name: str) -> None:
    (ray,) = re.findall(r"^ray==(.+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    image, dockerfile = f"salmask:{project}-ray{ray}", (DEPLOY / "Dockerfile").read_text()
    job = load(name)
    assert job["spec"]["rayClusterSpec"]["rayVersion"] == ray
    light = f"{image}-cpu"  # without CUDA's libraries, which only training needs
    wanted = {image if name == "rayjob_pretrain.yaml" else light}
    assert {box["image"] for pod in pods(job) for box in pod["containers"]} == wanted
    assert submitter(job)["containers"][0]["image"] == light
    for line in (f"-t {image} .", f"-t {light} --build-arg TORCH=cpu .", "ARG TORCH=cuda"):
        assert f"{line}\n" in dockerfile
    base = re.search(r"^FROM python:3\.(\d+)-slim", dockerfile, re.MULTILINE)
    uid = re.search(r"useradd .*--uid (\d+)", dockerfile)
    assert base is not None
    assert int(base[1]) >= 11
    assert uid is not None
    for pod in (*pods(job), submitter(job)):
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
        assert mounted.items() >= {"shared": "/shared", "shm": "/dev/shm"}.items()
        assert mounted.keys() == volumes.keys()
        assert box["volumeMounts"] == head["containers"][0]["volumeMounts"]
        assert volumes["shared"]["persistentVolumeClaim"]["claimName"] == claim
    told = {one["name"]: one["value"] for one in head["containers"][0]["env"]}
    assert told["SALMASK_ROOT"] == "/shared"
    # What `make cluster-up` gives a job that is stopped: time to write a checkpoint.
    assert int(told["RAY_JOB_STOP_WAIT_TIME_S"]) == JOB_STOP_WAIT_S


@pytest.mark.parametrize("name", JOBS)
def test_the_cluster_is_whole_before_the_job_and_gone_after_it(name: str) -> None:
    spec = load(name)["spec"]
    cluster, entry = spec["rayClusterSpec"], spec["entrypoint"]
    for group in cluster["workerGroupSpecs"]:
        assert group["minReplicas"] == group["replicas"] == group["maxReplicas"] > 0
    assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    assert cluster["authOptions"]["mode"] == "token"
    assert spec["shutdownAfterJobFinishes"] is True
    assert spec["backoffLimit"] > 0
    assert re.fullmatch(r"python [\w./ =-]+", entry), "a shell would change it"
    assert (ROOT / entry.split()[1]).is_file()


def test_the_jobs_take_their_command_lines_and_fit_their_clusters() -> None:
    recipe, local, run = read_command_line(words_of("rayjob_pretrain.yaml"))
    (gpus,) = load("rayjob_pretrain.yaml")["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    (box,) = gpus["template"]["spec"]["containers"]
    each = int(box["resources"]["limits"]["nvidia.com/gpu"])
    assert (recipe, local, run.knn.val_shards) == ("moco_v2_imagenet100", None, None)
    assert run.checkpoint.every_minutes == 10
    assert isinstance(run.num_workers, int)
    assert run.num_workers == gpus["replicas"] * each
    assert can_split(run, run.num_workers)
    mounts = [mount["mountPath"] for mount in box["volumeMounts"]]
    for place in (run.shards, run.out, run.cache.folder):
        assert any(f"{place}/".startswith(f"{path}/") for path in mounts)
    config = parse(PrecomputeConfig, "jobs/precompute.py", words_of("rayjob_precompute.yaml"))
    assert str(config.out) == str(run.shards)
    assert str(config.data).startswith("/shared/")


POD_PROPERTIES = {
    "securityContext.runAsNonRoot is True",
    "securityContext.seccompProfile.type is 'RuntimeDefault'",
    "automountServiceAccountToken is False",
    "containers.securityContext.allowPrivilegeEscalation is False",
    "containers.securityContext.capabilities.drop is 'ALL'",
    "containers.env.name is 'RAY_USAGE_STATS_ENABLED'",
}
"""Of every pod, which has one container; the submitter's, too."""
JOB_PROPERTIES = {
    "metadata.labels.ray.io/gang-scheduling-enabled is 'true'",
    "spec.preRunningDeadlineSeconds is 1800",
    "spec.submitterPodTemplate.spec.containers.name is 'ray-job-submitter'",
    "spec.rayClusterSpec.tlsOptions.enabled is True",
    "spec.rayClusterSpec.networkPolicy.mode is 'DenyAllIngress'",
    "spec.rayClusterSpec.networkPolicy.head.ingressRules.ports.port is 8265",
    f"spec.rayClusterSpec.headGroupSpec.template.spec.containers.env.name is {STOP_FINAL!r}",
}


@pytest.mark.parametrize("name", JOBS)
def test_pods_have_few_rights_and_jobs_a_start_and_an_end(name: str) -> None:
    job = load(name)
    assert set(unknown(job, "")) >= JOB_PROPERTIES
    assert job["spec"]["activeDeadlineSeconds"] > job["spec"]["preRunningDeadlineSeconds"]
    for pod in (submitter(job), *pods(job)):
        (box,), found = pod["containers"], set(unknown(pod, ""))
        assert found >= POD_PROPERTIES
        assert box["env"][0] == {"name": "RAY_USAGE_STATS_ENABLED", "value": "0"}
        wants = "nvidia.com/gpu" in box["resources"]["limits"]
        assert wants == ("tolerations.key is 'nvidia.com/gpu'" in found)
