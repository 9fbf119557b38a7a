"""The cluster files for `ray up`: by Ray's own rules, true to this project; no cloud is asked."""

import re
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]
from ray.autoscaler._private.util import prepare_config, validate_config

from jobs.local_head import JOB_STOP_WAIT_S

ROOT = Path(__file__).resolve().parents[3]
DEPLOY = ROOT / "jobs" / "deploy"
FILES = ("ray_up_aws.yaml", "ray_up_machines.yaml")
HOME = "/home/ubuntu/"
CODE = HOME + "salmask/"
TOKEN = HOME + ".ray/auth_token"
SETUP = re.compile(r"make setup EXTRAS=([a-z0-9,]+)$")


def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def what_set_up_needs() -> set[str]:
    """Files and folders that `make setup` reads, and the code."""
    about = project()
    packages = about["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    assert (ROOT / about["project"]["readme"]).is_file(), "the build reads it"
    return {
        "pyproject.toml",
        "constraints.txt",
        "Makefile",
        "LICENSE",
        about["project"]["readme"],
        *packages,
    }


def check_extras(extras: str) -> None:
    known = project()["project"]["optional-dependencies"]
    assert set(extras.split(",")) <= known.keys()
    assert "dev" not in extras.split(","), "a cluster runs no tests"


def cluster(name: str) -> dict[str, Any]:
    loaded = yaml.safe_load((DEPLOY / name).read_text())
    assert isinstance(loaded, dict)
    return loaded


@pytest.mark.parametrize("name", FILES)
def test_ray_takes_the_file(name: str) -> None:
    full = prepare_config(cluster(name))
    validate_config(full)
    assert full["head_node_type"] in full["available_node_types"]


def test_ray_refuses_an_unknown_field() -> None:
    wrong = {**cluster(FILES[0]), "idle_timeout": 5}
    with pytest.raises(Exception, match="idle_timeout"):
        validate_config(prepare_config(wrong))


@pytest.mark.parametrize("name", FILES)
def test_every_node_gets_the_code_and_the_token(name: str) -> None:
    mounts = cluster(name)["file_mounts"]
    code = {there: here for there, here in mounts.items() if there.startswith(CODE)}
    assert set(code.values()) == what_set_up_needs()
    assert all(there == CODE + here for there, here in code.items())
    assert all((ROOT / here).exists() for here in code.values())
    assert mounts.keys() - code.keys() == {TOKEN}


@pytest.mark.parametrize("name", FILES)
def test_every_node_is_set_up_as_the_makefile_does_it(name: str) -> None:
    commands = cluster(name)["setup_commands"]
    (made,) = [found for line in commands if (found := SETUP.search(line))]
    check_extras(made[1])
    assert made.string.startswith("cd ~/salmask && ")
    # In every shell that Ray opens: the environment first, and the token sent.
    (shell,) = [line for line in commands if ".bashrc" in line]
    assert '"$HOME/salmask/.venv/bin:$PATH" RAY_AUTH_MODE=token' in shell
    assert commands.index(shell) > commands.index(made.string)


@pytest.mark.parametrize("name", FILES)
def test_the_commands_are_shell(name: str) -> None:
    lists = [key for key in cluster(name) if key.endswith("_commands")]
    assert len(lists) >= 3
    for line in (line for key in lists for line in cluster(name)[key]):
        subprocess.run(["bash", "-n", "-c", line], check=True)


@pytest.mark.parametrize("name", FILES)
def test_jobs_run_in_the_projects_folder_and_mean_the_shared_one(name: str) -> None:
    start = cluster(name)["head_start_ray_commands"][-1]
    assert start.startswith("cd ~/salmask && ")
    assert f"SALMASK_ROOT=/shared RAY_JOB_STOP_WAIT_TIME_S={JOB_STOP_WAIT_S} ray start" in start
    assert any("/shared" in line for line in cluster(name)["setup_commands"])
    assert "--dashboard-host=127.0.0.1" in start, "the job server is reached through ssh only"
    assert "--autoscaling-config=$HOME/ray_bootstrap_config.yaml" in start


def test_no_work_is_placed_on_the_head_of_a_cluster_that_grows() -> None:
    kinds = cluster("ray_up_aws.yaml")["available_node_types"]
    assert kinds["head"]["resources"] == {"CPU": 0}
    workers = {name: kind for name, kind in kinds.items() if name != "head"}
    assert sorted(workers) == ["cpu", "gpu"]
    assert all(kind["min_workers"] == 0 < kind["max_workers"] for kind in workers.values())
    most = sum(kind["max_workers"] for kind in workers.values())
    assert cluster("ray_up_aws.yaml")["max_workers"] == most
    # The YAML's merge keys: another machine on the same disk image.
    head, gpu = (kinds[name]["node_config"] for name in ("head", "gpu"))
    assert gpu["ImageId"] == head["ImageId"]
    assert gpu["InstanceType"] != head["InstanceType"]


def test_the_two_files_set_up_their_nodes_alike() -> None:
    aws, machines = map(cluster, FILES)
    assert aws["file_mounts"] == machines["file_mounts"]
    assert aws["setup_commands"][-2:] == machines["setup_commands"][-2:]


def test_the_image_has_the_same_files_and_the_same_set_up() -> None:
    lines = (DEPLOY / "Dockerfile").read_text().replace("\\\n", " ").splitlines()
    copied = [line.split()[2:-1] for line in lines if line.startswith("COPY --chown")]
    assert {name for names in copied for name in names} == what_set_up_needs()
    (made,) = [found for line in lines if (found := SETUP.search(line))]
    check_extras(made[1])
    assert made[1] == SETUP.search(cluster(FILES[0])["setup_commands"][-2])[1]  # type: ignore[index]
    ignored = (DEPLOY / "Dockerfile.dockerignore").read_text().split()
    assert ignored[0] == "*"
    assert {line[1:] for line in ignored if line.startswith("!")} == what_set_up_needs()


def test_the_makefile_installs_the_extras_that_it_is_told() -> None:
    made = subprocess.run(
        ["make", "-n", "setup", "EXTRAS=s3,optuna", "VENV=nowhere"],
        cwd=ROOT,
        text=True,
        capture_output=True,
        check=True,
    ).stdout
    assert "--constraint constraints.txt --editable '.[s3,optuna]'" in made
