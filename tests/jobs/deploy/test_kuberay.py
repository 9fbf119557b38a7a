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
NUMBERS = (
    r"(runAs(User|Group)|fsGroup|port|containerPort|\w*[rR]eplicas|backoffLimit|\w+Seconds\w*)$"
)
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


def images_of(*found: dict[str, Any]) -> set[str]:
    return {box["image"] for pod in found for box in pod["containers"]}


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
    # Only what trains needs CUDA's libraries.
    light, variant = f"{image}-cpu", "" if name == "rayjob_pretrain.yaml" else "-cpu"
    assert images_of(*pods(job)) == {image + variant}
    assert images_of(job["spec"]["submitterPodTemplate"]["spec"]) == {light}
    assert f"-t {image} .\n" in dockerfile
    assert f"-t {light} --build-arg TORCH=cpu .\n" in dockerfile
    assert re.search(r"^ARG TORCH=cuda\nRUN TORCH=\$TORCH make setup", dockerfile, re.MULTILINE)
    base = re.search(r"^FROM python:3\.(\d+)-slim", dockerfile, re.MULTILINE)
    uid = re.search(r"useradd .*--uid (\d+)", dockerfile)
    assert base is not None
    assert int(base[1]) >= 11
    assert uid is not None
    for pod in (*pods(job), job["spec"]["submitterPodTemplate"]["spec"]):
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


NO_STATISTICS = {"name": "RAY_USAGE_STATS_ENABLED", "value": "0"}
POD_PROPERTIES: dict[str, tuple[str, object]] = {
    "not as root": ("securityContext.runAsNonRoot", True),
    "the runtime's seccomp profile": ("securityContext.seccompProfile.type", "RuntimeDefault"),
    "no token of Kubernetes": ("automountServiceAccountToken", False),
    "no more rights later": ("containers.0.securityContext.allowPrivilegeEscalation", False),
    "no capability": ("containers.0.securityContext.capabilities.drop", ["ALL"]),
    "no usage statistics": (
        "containers.0.env.0",
        {"name": "RAY_USAGE_STATS_ENABLED", "value": "0"},
    ),
}
"""Of every pod, the submitter's, too: property -> its place and value."""
JOB_PROPERTIES: dict[str, tuple[str, object]] = {
    "encrypted": ("spec.rayClusterSpec.tlsOptions.enabled", True),
    "closed": ("spec.rayClusterSpec.networkPolicy.mode", "DenyAllIngress"),
    "a gang": ("metadata.labels.ray.io/gang-scheduling-enabled", "true"),
    "which does not wait for ever": ("spec.preRunningDeadlineSeconds", 1800),
}


def at(found: Any, place: str) -> object:  # noqa: ANN401
    """What is at a dotted place; a key may have dots itself. None: nothing."""
    if not place or found is None:
        return found
    if isinstance(found, list):
        number, _, rest = place.partition(".")
        return at(found[int(number)], rest)
    key = next((key for key in found if f"{place}.".startswith(f"{key}.")), None)
    return None if key is None else at(found[key], place[len(key) + 1 :])


@pytest.mark.parametrize("name", JOBS)
def test_pods_have_few_rights_and_jobs_an_end(name: str) -> None:
    job = load(name)
    submitter = job["spec"]["submitterPodTemplate"]["spec"]
    for pod in (submitter, *pods(job)):
        assert len(pod["containers"]) == 1
        found = {what: at(pod, place) for what, (place, _) in POD_PROPERTIES.items()}
        assert found == {what: value for what, (_, value) in POD_PROPERTIES.items()}
    found = {what: at(job, place) for what, (place, _) in JOB_PROPERTIES.items()}
    assert found == {what: value for what, (_, value) in JOB_PROPERTIES.items()}
    spec = job["spec"]
    assert spec["activeDeadlineSeconds"] > spec["preRunningDeadlineSeconds"]
    assert (submitter["restartPolicy"], submitter["containers"][0]["name"]) == (
        "Never",
        "ray-job-submitter",
    )
    # The operator, and nobody else, may ask the head's job server from outside.
    policy = spec["rayClusterSpec"]["networkPolicy"]
    (rule,) = policy["head"]["ingressRules"]
    assert policy.keys() == {"mode", "head"}
    assert rule["ports"] == [{"protocol": "TCP", "port": 8265}]
    ((peer,),) = [rule["from"]]
    assert peer.keys() == {"namespaceSelector", "podSelector"}
    assert all(one["matchLabels"] for one in peer.values())


def test_only_pods_that_want_a_gpu_tolerate_its_taint() -> None:
    for pod in (pod for name in JOBS for pod in pods(load(name))):
        wants = any("gpu" in key for key in pod["containers"][0]["resources"]["limits"])
        taint = {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}
        assert pod.get("tolerations", []) == [taint] * wants


@pytest.mark.parametrize("name", JOBS)
def test_a_lost_cluster_is_replaced_and_a_wrong_input_is_not(name: str) -> None:
    spec = load(name)["spec"]
    assert spec["backoffLimit"] > 0
    head = pods(load(name))[0]["containers"][0]
    assert {"name": STOP_FINAL, "value": "1"} in head["env"]
