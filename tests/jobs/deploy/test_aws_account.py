"""Rights and ways on AWS, in moto: what Ray does with ray_up_aws.yaml and aws_account.yaml."""

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
import yaml  # type: ignore[import-untyped]
from moto import mock_aws
from ray.autoscaler._private.aws.config import bootstrap_aws
from ray.autoscaler._private.aws.node_provider import AWSNodeProvider
from ray.autoscaler._private.util import prepare_config
from ray.autoscaler.tags import TAG_RAY_NODE_KIND, TAG_RAY_NODE_NAME

DEPLOY = Path(__file__).resolve().parents[3] / "jobs" / "deploy"
REGION, HOME_OFFICE, ANYWHERE = "eu-central-1", "203.0.113.7/32", "0.0.0.0/0"
TAGS = {TAG_RAY_NODE_NAME: "ray-salmask-worker", TAG_RAY_NODE_KIND: "worker"}


@pytest.fixture
def account(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """The cluster file, filled in with what CloudFormation made of the account's file."""
    monkeypatch.setenv("HOME", str(tmp_path))  # Ray writes a key there
    for name in ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY"):
        monkeypatch.setenv(f"AWS_{name}", "testing")
    for name in ("AWS_PROFILE", "AWS_ENDPOINT_URL"):
        monkeypatch.delenv(name, raising=False)
    with mock_aws():
        ec2 = boto3.client("ec2", REGION)
        vpc = ec2.create_vpc(CidrBlock="10.0.0.0/16")["Vpc"]["VpcId"]
        subnet = ec2.create_subnet(VpcId=vpc, CidrBlock="10.0.0.0/24")["Subnet"]["SubnetId"]
        ec2.modify_subnet_attribute(SubnetId=subnet, MapPublicIpOnLaunch={"Value": True})
        given = {"Vpc": vpc, "Subnet": subnet, "SshFrom": HOME_OFFICE, "Bucket": "images"}
        stacks = boto3.client("cloudformation", REGION)
        stacks.create_stack(
            StackName="salmask",
            TemplateBody=(DEPLOY / "aws_account.yaml").read_text(),
            Parameters=[{"ParameterKey": k, "ParameterValue": v} for k, v in given.items()],
            Capabilities=["CAPABILITY_NAMED_IAM"],
        )
        (stack,) = stacks.describe_stacks(StackName="salmask")["Stacks"]
        made = {one["OutputKey"]: one["OutputValue"] for one in stack["Outputs"]}
        config: dict[str, Any] = yaml.safe_load((DEPLOY / "ray_up_aws.yaml").read_text())
        image = ec2.describe_images()["Images"][0]["ImageId"]
        for kind in config["available_node_types"].values():
            node = kind["node_config"]
            assert node.keys() >= {"SecurityGroupIds", "SubnetIds", "ImageId"}
            node |= {name: [made[name]] for name in ("SecurityGroupIds", "SubnetIds")}
            node["ImageId"] = image
        yield config


def test_ray_keeps_to_named_addresses_and_roles(account: dict[str, Any]) -> None:
    full = bootstrap_aws(prepare_config(account))
    assert full["head_node"] == {}, "Ray would make a role of its own"
    ec2, iam = boto3.client("ec2", REGION), boto3.client("iam", REGION)
    groups = ec2.describe_security_groups()["SecurityGroups"]
    (ours,) = [group for group in groups if group["GroupName"] != "default"]
    rules = {rule["IpProtocol"]: rule for rule in ours["IpPermissions"]}
    assert rules.keys() == {"tcp", "-1"}
    assert (rules["tcp"]["FromPort"], rules["tcp"]["ToPort"]) == (22, 22)
    assert [one["CidrIp"] for one in rules["tcp"]["IpRanges"]] == [HOME_OFFICE]
    assert [one["GroupId"] for one in rules["-1"]["UserIdGroupPairs"]] == [ours["GroupId"]]
    assert rules["-1"]["IpRanges"] == []
    roles = {role["RoleName"] for role in iam.list_roles()["Roles"]}
    assert roles == {"salmask-head", "salmask-worker"}
    # Without the group in the file Ray opens the port for all: so it must be there.
    for kind in account["available_node_types"].values():
        del kind["node_config"]["SecurityGroupIds"]
    bootstrap_aws(prepare_config(account))
    groups = ec2.describe_security_groups()["SecurityGroups"]
    ranges = [r for g in groups for p in g["IpPermissions"] for r in p["IpRanges"]]
    assert {"CidrIp": ANYWHERE} in ranges


def test_nodes_are_encrypted_and_the_head_may_do_what_it_does(account: dict[str, Any]) -> None:
    full = bootstrap_aws(prepare_config(account))
    provider = AWSNodeProvider(full["provider"], full["cluster_name"])
    called: set[str] = set()
    for resource in (provider.ec2, provider.ec2_fail_fast):
        events = resource.meta.client.meta.events
        events.register("before-call.ec2.*", lambda model, **_: called.add(f"ec2:{model.name}"))
    profiles = {}
    for name, kind in full["available_node_types"].items():
        node = kind["node_config"]
        profiles[name] = node["IamInstanceProfile"]["Name"]
        assert node["MetadataOptions"] == {"HttpTokens": "required", "HttpPutResponseHopLimit": 1}
        assert all(disk["Ebs"]["Encrypted"] is True for disk in node["BlockDeviceMappings"])
        (made,) = provider.create_node(node, TAGS, 1)
        (there,) = provider.ec2.instances.filter(InstanceIds=[made])
        assert there.iam_instance_profile["Arn"].endswith(f"/{profiles[name]}")
        (volume,) = there.volumes.all()
        assert volume.encrypted
    assert profiles == {"head": "salmask-head", "cpu": "salmask-worker", "gpu": "salmask-worker"}
    provider.non_terminated_nodes({})
    provider.set_node_tags(made, {"ray-node-status": "up-to-date"})
    provider.terminate_nodes([made])
    iam = boto3.client("iam", REGION)
    policy: Any = iam.get_role_policy(RoleName="salmask-head", PolicyName="workers")
    policy = json.loads(policy["PolicyDocument"])
    allowed: set[str] = set()
    for statement in policy["Statement"]:
        actions = statement["Action"]
        allowed |= {actions} if isinstance(actions, str) else set(actions)
        # Nothing is allowed on everything but to look.
        assert (statement["Resource"] == "*") == (actions == "ec2:DescribeInstances")
    assert allowed == called | {"iam:PassRole"}
    assert not any("*" in action for action in allowed)
    assert iam.list_role_policies(RoleName="salmask-worker")["PolicyNames"] == []


def test_the_file_system_is_reached_by_tls_alone(account: dict[str, Any], tmp_path: Path) -> None:
    (files,) = boto3.client("efs", REGION).describe_file_systems()["FileSystems"]
    assert files["Encrypted"] is True
    template = yaml.safe_load((DEPLOY / "aws_account.yaml").read_text())
    policy = template["Resources"]["Files"]["Properties"]["FileSystemPolicy"]
    (denied,) = [one for one in policy["Statement"] if one["Effect"] == "Deny"]
    assert (denied["Action"], denied["Principal"]) == ("*", {"AWS": "*"})
    assert json.dumps(denied["Condition"]) == '{"Bool": {"aws:SecureTransport": "false"}}'
    setup = account["setup_commands"]
    mounts = [re.findall(r"mount -t \S+ -o (\S+) (\S+) ", line) for line in setup]
    assert [found for each in mounts for found in each] == [
        ("nfsvers=4.1,hard,noresvport,port=20049", "127.0.0.1:/")
    ]
    # What stunnel is told, as a shell writes it.
    (told,) = [line for line in setup if "/etc/stunnel" in line and "tee" in line]
    (address,) = [line for line in setup if line.endswith("> ~/efs")]
    script = f"{address}; sudo() {{ cat > ~/made; }}; {told}"
    subprocess.run(["bash", "-c", script], check=True, env={"HOME": str(tmp_path)})
    lines = (tmp_path / "made").read_text().splitlines()
    host = (tmp_path / "efs").read_text().strip()
    assert host.endswith(".amazonaws.com")
    assert lines[:4] == ["foreground = yes", "pid =", "[efs]", "client = yes"]
    assert {f"connect = {host}:2049", f"checkHost = {host}", "verifyChain = yes"} <= set(lines)
    assert "accept = 127.0.0.1:20049" in lines


def test_nobody_lets_the_whole_internet_in() -> None:
    parameters = yaml.safe_load((DEPLOY / "aws_account.yaml").read_text())["Parameters"]
    pattern = parameters["SshFrom"]["AllowedPattern"]
    assert re.fullmatch(pattern, HOME_OFFICE)
    assert not re.fullmatch(pattern, ANYWHERE)
    assert "Default" not in parameters["SshFrom"]
