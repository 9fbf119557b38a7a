"""What Ray makes of ray_up_aws.yaml and aws_account.yaml, on moto's AWS."""

import ast
import re
from pathlib import Path

import boto3
import pytest
import yaml  # type: ignore[import-untyped]
from moto import mock_aws
from ray.autoscaler._private.aws.config import bootstrap_aws
from ray.autoscaler._private.aws.node_provider import AWSNodeProvider
from ray.autoscaler._private.util import prepare_config
from ray.autoscaler.tags import TAG_RAY_NODE_NAME

DEPLOY = Path(__file__).resolve().parents[3] / "jobs" / "deploy"
REGION, HOME = "eu-central-1", "203.0.113.7/32"
HEAD, WORKER = "salmask-head", "salmask-worker"


def test_few_may_log_in_and_machines_have_few_rights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))  # Ray writes a key there
    with mock_aws():
        ec2, iam, stacks = (boto3.client(name, REGION) for name in ("ec2", "iam", "cloudformation"))
        vpc = ec2.create_vpc(CidrBlock="10.0.0.0/16")["Vpc"]["VpcId"]
        subnet = ec2.create_subnet(VpcId=vpc, CidrBlock="10.0.0.0/24")["Subnet"]["SubnetId"]
        ec2.modify_subnet_attribute(SubnetId=subnet, MapPublicIpOnLaunch={"Value": True})
        given = {"Vpc": vpc, "Subnet": subnet, "SshFrom": HOME, "Bucket": "images"}
        named = [{"ParameterKey": key, "ParameterValue": value} for key, value in given.items()]
        text = (DEPLOY / "aws_account.yaml").read_text()
        stacks.create_stack(StackName="salmask", TemplateBody=text, Parameters=named)
        outputs = stacks.describe_stacks(StackName="salmask")["Stacks"][0]["Outputs"]
        made = {one["OutputKey"]: one["OutputValue"] for one in outputs}

        config = yaml.safe_load((DEPLOY / "ray_up_aws.yaml").read_text())
        for kind in config["available_node_types"].values():
            own = {name: [made[name]] for name in ("SecurityGroupIds", "SubnetIds")}
            own["ImageId"] = ec2.describe_images()["Images"][0]["ImageId"]
            assert kind["node_config"].keys() >= own.keys()
            kind["node_config"] |= own
        full, ours = bootstrap_aws(prepare_config(config)), made["SecurityGroupIds"]
        # Ray has made no group and no role of its own; ours lets in the address, and itself.
        groups = {one["GroupId"]: one for one in ec2.describe_security_groups()["SecurityGroups"]}
        assert [one for one in groups if groups[one]["GroupName"].startswith("ray-")] == []
        assert {role["RoleName"] for role in iam.list_roles()["Roles"]} == {HEAD, WORKER}
        ways = {str(one.get("FromPort")): one for one in groups[ours]["IpPermissions"]}
        assert [one["CidrIp"] for one in ways.pop("22")["IpRanges"]] == [HOME]
        (among,) = ways.values()
        assert (among["IpRanges"], among["UserIdGroupPairs"][0]["GroupId"]) == ([], ours)

        provider, called, node = AWSNodeProvider(full["provider"], "salmask"), set[str](), ""
        for resource in (provider.ec2, provider.ec2_fail_fast):
            events = resource.meta.client.meta.events
            events.register("before-call.ec2.*", lambda model, **_: called.add(model.name))
        for name, kind in full["available_node_types"].items():
            assert kind["node_config"]["MetadataOptions"]["HttpTokens"] == "required"
            (node,) = provider.create_node(kind["node_config"], {TAG_RAY_NODE_NAME: name}, 1)
            (there,) = provider.ec2.instances.filter(InstanceIds=[node])
            profile = HEAD if name == "head" else WORKER
            assert there.iam_instance_profile["Arn"].endswith(f"/{profile}")
            assert [disk.encrypted for disk in there.volumes.all()] == [True]
        provider.non_terminated_nodes({})
        provider.set_node_tags(node, {"status": "up"})
        provider.terminate_nodes([node])
        called.discard("DescribeVolumes")  # this test's own
        document = iam.get_role_policy(RoleName=HEAD, PolicyName="workers")["PolicyDocument"]
    statements = ast.literal_eval(str(document))["Statement"]  # moto has it in Python
    allowed = {action.partition(":")[2] for one in statements for action in one["Action"]}
    assert allowed == called | {"PassRole"}
    anywhere = [one["Action"] for one in statements if one["Resource"] == "*"]
    assert anywhere == [["ec2:DescribeInstances"]]


def test_files_go_by_tls_alone_and_not_everybody_may_log_in() -> None:
    account = yaml.safe_load((DEPLOY / "aws_account.yaml").read_text())
    allowed = account["Parameters"]["SshFrom"]["AllowedPattern"]
    assert [bool(re.fullmatch(allowed, one)) for one in (HOME, "0.0.0.0/0")] == [True, False]
    files = account["Resources"]["Files"]["Properties"]
    denied = files["FileSystemPolicy"]["Statement"][1]
    assert (files["Encrypted"], denied["Effect"], denied["Action"]) == (True, "Deny", "*")
    assert denied["Condition"] == {"Bool": {"aws:SecureTransport": "false"}}
    setup = " ".join(yaml.safe_load((DEPLOY / "ray_up_aws.yaml").read_text())["setup_commands"])
    mounted = re.findall(r" mount -t \S+ -o \S*port=(\d+) (\S+) ", setup)
    assert mounted == [("20049", "127.0.0.1:/")]
    assert {"accept = 127.0.0.1:20049", "verifyChain = yes"} <= set(re.findall(r"'(.*?)'", setup))
