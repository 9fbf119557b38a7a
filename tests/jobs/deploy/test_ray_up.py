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
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
FILES = ("ray_up_aws.yaml", "ray_up_machines.yaml")
CODE, TOKEN = "/home/ubuntu/salmask/", "/home/ubuntu/.ray/auth_token"
SETUP = re.compile(r"make setup EXTRAS=([a-z0-9,]+)$")
NEEDED = {
    *("pyproject.toml", "constraints.txt", "Makefile", "LICENSE", PROJECT["project"]["readme"]),
    *PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["only-include"],
}
"""Files and folders that `make setup` reads, and the code."""


def extras_of(lines: list[str]) -> str:
    """The extras that the one line with `make setup` installs."""
    (extras,) = [found[1] for line in lines if (found := SETUP.search(line))]
    # All of them: what a README names is there.
    assert set(extras.split(",")) == PROJECT["project"]["optional-dependencies"].keys() - {"dev"}
    return str(extras)


def cluster(name: str) -> dict[str, Any]:
    loaded = yaml.safe_load((DEPLOY / name).read_text())
    assert isinstance(loaded, dict)
    return loaded


@pytest.mark.parametrize("name", FILES)
def test_ray_takes_the_file(name: str) -> None:
    full = prepare_config(cluster(name))
    validate_config(full)
    assert full["head_node_type"] in full["available_node_types"]
    with pytest.raises(Exception, match="idle_timeout"):
        validate_config(prepare_config(cluster(name) | {"idle_timeout": 5}))


@pytest.mark.parametrize("name", FILES)
def test_every_node_gets_the_code_and_the_token_and_the_makefiles_set_up(name: str) -> None:
    mounts = cluster(name)["file_mounts"]
    assert mounts.keys() - {TOKEN} == {CODE + name for name in NEEDED}
    assert TOKEN in mounts
    assert all(there == CODE + here for there, here in mounts.items() if there != TOKEN)
    assert all((ROOT / name).exists() for name in NEEDED)
    commands = cluster(name)["setup_commands"]
    extras_of(commands)
    (made,) = [line for line in commands if SETUP.search(line)]
    assert made.startswith("cd ~/salmask && ")
    # In every shell that Ray opens: the environment first, and the token sent.
    (shell,) = [line for line in commands if ".bashrc" in line]
    assert '"$HOME/salmask/.venv/bin:$PATH" RAY_AUTH_MODE=token' in shell
    assert "RAY_USAGE_STATS_ENABLED=0" in shell
    starts = [cluster(name)[f"{kind}_start_ray_commands"][-1] for kind in ("head", "worker")]
    assert all("ray start" in one and "--disable-usage-stats" in one for one in starts)
    assert commands.index(shell) > commands.index(made)


@pytest.mark.parametrize("name", FILES)
def test_the_commands_are_shell_and_jobs_mean_the_shared_folder(name: str) -> None:
    lists = [key for key in cluster(name) if key.endswith("_commands")]
    assert len(lists) >= 3
    lines = [line for key in lists for line in cluster(name)[key]]
    for line in lines:
        subprocess.run(["bash", "-n", "-c", line], check=True)
    start = cluster(name)["head_start_ray_commands"][-1]
    assert start.startswith("cd ~/salmask && ")
    assert f"SALMASK_ROOT=/shared RAY_JOB_STOP_WAIT_TIME_S={JOB_STOP_WAIT_S} ray start" in start
    assert any("/shared" in line for line in cluster(name)["setup_commands"])
    assert "--dashboard-host=127.0.0.1" in start, "the job server is reached through ssh only"
    assert "--autoscaling-config=$HOME/ray_bootstrap_config.yaml" in start


def test_no_work_is_placed_on_the_head_of_a_cluster_that_grows() -> None:
    aws, machines = map(cluster, FILES)
    head, cpu, gpu = (aws["available_node_types"][name] for name in ("head", "cpu", "gpu"))
    assert len(aws["available_node_types"]) == 3
    assert head["resources"] == {"CPU": 0}
    assert all(kind["min_workers"] == 0 < kind["max_workers"] for kind in (cpu, gpu))
    assert aws["max_workers"] == cpu["max_workers"] + gpu["max_workers"]
    # The YAML's merge keys: another machine on the same disk image.
    assert gpu["node_config"]["ImageId"] == head["node_config"]["ImageId"]
    assert gpu["node_config"]["InstanceType"] != head["node_config"]["InstanceType"]
    # Both files set up their nodes alike.
    assert aws["file_mounts"] == machines["file_mounts"]
    assert aws["setup_commands"][-2:] == machines["setup_commands"][-2:]


def test_the_image_has_the_same_files_and_the_same_set_up() -> None:
    lines = (DEPLOY / "Dockerfile").read_text().replace("\\\n", " ").splitlines()
    copied = [line.split()[2:-1] for line in lines if line.startswith("COPY --chown")]
    assert {name for names in copied for name in names} == NEEDED
    assert any("apt-get install" in line and " g++ " in line for line in lines), "for compile"
    assert extras_of(lines) == extras_of(cluster(FILES[0])["setup_commands"])
    ignored = (DEPLOY / "Dockerfile.dockerignore").read_text().split()
    assert ignored[0] == "*"
    assert {line[1:] for line in ignored if line.startswith("!")} == NEEDED


def test_the_makefile_installs_the_extras_that_it_is_told() -> None:
    command = ["make", "-n", "setup", "EXTRAS=s3,optuna", "VENV=nowhere"]
    made = subprocess.run(command, cwd=ROOT, text=True, capture_output=True, check=True).stdout
    assert "--constraint constraints.txt --editable '.[s3,optuna]'" in made
