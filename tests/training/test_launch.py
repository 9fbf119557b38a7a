import pytest

from pipeline.errors import InputError
from training.launch import Resources, plan_resources


def test_one_worker_per_gpu_with_its_share_of_the_cores() -> None:
    nodes = [{"CPU": 16.0, "GPU": 2.0}, {"CPU": 8.0, "GPU": 2.0}]
    assert plan_resources(None, nodes) == Resources(4, 5, True)


def test_without_gpus_one_worker_takes_a_whole_node() -> None:
    assert plan_resources(None, [{"CPU": 8.0}]) == Resources(1, 8, False)
    assert plan_resources(2, [{"CPU": 2.0}]) == Resources(2, 1, False)
    assert plan_resources(3, [{"CPU": 4.0}, {"CPU": 2.0}]) == Resources(3, 2, False)


def test_more_workers_than_the_cluster_holds_are_refused_with_the_numbers() -> None:
    with pytest.raises(InputError, match="3 workers were asked for, the cluster has 2 CPUs"):
        plan_resources(3, [{"CPU": 2.0}])
    with pytest.raises(InputError, match="4 workers were asked for, the cluster has 1 GPUs"):
        plan_resources(4, [{"CPU": 8.0, "GPU": 1.0}])
