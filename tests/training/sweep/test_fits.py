"""The arithmetic of what fits: against laying every worker on a node by hand."""

from itertools import product

import pytest

from pipeline.core.errors import InputError
from training.config.resources import Node
from training.sweep.fits import Share, num_fitting, share_of

TWO_CORES: list[Node] = [{"CPU": 2.0}]


def shares(nodes: list[Node], **given: int | None) -> Share:
    options: dict[str, int | None] = {"concurrent": None, "workers": 1, "cpus": None, "most": 8}
    return share_of(nodes, **{**options, **given})  # type: ignore[arg-type]


def laid_out(nodes: list[Node], workers: int, cpus: int) -> int:
    """Trials that fit, by putting one worker after another on the first node with room."""
    free = [dict(node) for node in nodes]
    gpus = any(node.get("GPU", 0) for node in nodes)
    placed = 0
    while True:
        for node in free:
            if node["CPU"] >= cpus and (not gpus or node.get("GPU", 0) >= 1):
                node["CPU"] -= cpus
                node["GPU"] = node.get("GPU", 0) - 1
                placed += 1
                break
        else:
            return placed // workers


@pytest.mark.parametrize(
    "nodes",
    [
        TWO_CORES,
        [{"CPU": 3.0}, {"CPU": 5.0}],
        [{"CPU": 16.0, "GPU": 2.0}],
        [{"CPU": 4.0, "GPU": 4.0}, {"CPU": 8.0}],
        [{"CPU": 0.0}],
    ],
)
def test_as_many_trials_fit_as_can_be_laid_out(nodes: list[Node]) -> None:
    for workers, cpus in product((1, 2, 3), (1, 2, 3)):
        assert num_fitting(nodes, workers=workers, cpus=cpus) == laid_out(nodes, workers, cpus)


def test_cores_are_divided_among_the_trials() -> None:
    assert shares(TWO_CORES, concurrent=1).resources.cpus_per_worker == 2
    assert shares(TWO_CORES, concurrent=2).resources.cpus_per_worker == 1
    both = shares(TWO_CORES)
    assert (both.trials, both.resources.num_workers, both.resources.use_gpu) == (2, 1, False)
    gpus = shares([{"CPU": 16.0, "GPU": 4.0}])
    assert (gpus.trials, gpus.resources.cpus_per_worker, gpus.resources.use_gpu) == (4, 4, True)
    assert shares(TWO_CORES, most=1) == shares(TWO_CORES, concurrent=1)
    assert shares([{"CPU": 16.0}], cpus=4).trials == 4
    assert shares([{"CPU": 16.0}], concurrent=2, cpus=4).resources.cpus_per_worker == 4


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"concurrent": 3}, r"3 trials at a time.*3 x 1 worker x 1 CPU = 3 CPUs, .*has 2 CPUs; "
                            "--concurrent 2 fits"),
        ({"concurrent": 2, "workers": 2}, r"2 x 2 workers x 1 CPU = 4 CPUs.*--concurrent 1 fits"),
        ({"concurrent": 2, "cpus": 2}, r"2 x 1 worker x 2 CPUs = 4 CPUs.*--concurrent 1 fits"),
        ({"workers": 3}, r"1 x 3 workers x 1 CPU = 3 CPUs.*not even one trial fits"),
        ({"cpus": 4}, r"1 trial at a time.*not even one trial fits"),
    ],
)  # fmt: skip
def test_what_would_wait_for_ever_is_refused_with_the_arithmetic(
    given: dict[str, int], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        shares(TWO_CORES, **given)


def test_gpus_and_nodes_are_in_the_arithmetic() -> None:
    nodes: list[Node] = [{"CPU": 8.0, "GPU": 1.0}, {"CPU": 8.0, "GPU": 1.0}]
    message = (
        r"3 x 1 worker x 1 CPU = 3 CPUs and 3 GPUs, the cluster has 16 CPUs and 2 GPUs on 2 nodes "
        r"\(a worker lies on one\); --concurrent 2 fits"
    )
    with pytest.raises(InputError, match=message):
        shares(nodes, concurrent=3)


def test_cores_that_lie_on_several_nodes_do_not_add_up() -> None:
    with pytest.raises(InputError, match="not even one trial fits"):
        shares([{"CPU": 2.0}, {"CPU": 2.0}], concurrent=1, cpus=3)


def test_no_more_trials_at_once_than_there_are() -> None:
    assert shares([{"CPU": 16.0}], concurrent=9, most=2).trials == 2
