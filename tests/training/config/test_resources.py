"""How many workers there are, and the cores of each, on nodes of every kind."""

from math import gcd

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.errors import InputError
from training.config.resources import Resources, Wanted, fewer_resources, first_resources

GPUS = [{"CPU": 16.0, "GPU": 2.0}, {"CPU": 8.0, "GPU": 2.0}]
MANY_GPUS = [{"CPU": 8.0, "GPU": 8.0}, {"CPU": 8.0, "GPU": 4.0}]


@pytest.mark.parametrize(
    ("wanted", "nodes", "batch", "expected"),
    [
        ("auto", GPUS, 0, Resources(4, 4, True)),
        ("auto", MANY_GPUS, 64, Resources(8, 2, True)),
        ("auto", MANY_GPUS, 49, Resources(7, 2, True)),
        # Where no number suits there is one worker, so that the batch's checks say why.
        ("auto", MANY_GPUS, 0.5, Resources(1, 8, True)),
        # Without GPUs one per node; a head node may have no cores for work.
        ("auto", [{"CPU": 8.0}], 0, Resources(1, 8, False)),
        ("auto", [{"CPU": 8.0}, {"memory": 1.0}, {"CPU": 6.0}], 0, Resources(2, 6, False)),
        (2, [{"CPU": 2.0}], 0, Resources(2, 1, False)),
        (3, [{"CPU": 4.0}, {"CPU": 2.0}], 0, Resources(3, 2, False)),
        # Cores without a GPU beside them do not help a worker that needs one.
        (2, [{"CPU": 64.0}, {"CPU": 8.0, "GPU": 2.0}], 0, Resources(2, 4, True)),
    ],
)
def test_the_workers_that_a_run_starts_with(
    wanted: Wanted, nodes: list[dict[str, float]], batch: float, expected: Resources
) -> None:
    assert first_resources(wanted, nodes, lambda count: batch % count == 0) == expected


def test_more_workers_than_the_cluster_holds_are_refused_with_the_numbers() -> None:
    with pytest.raises(InputError, match="3 workers were asked for, the cluster has 2 CPUs"):
        first_resources(3, [{"CPU": 2.0}], bool)
    with pytest.raises(InputError, match="4 workers were asked for, the cluster has 1 GPUs"):
        first_resources(4, [{"CPU": 8.0, "GPU": 1.0}], bool)


@given(
    nodes=st.lists(
        st.fixed_dictionaries({"CPU": st.integers(0, 9), "GPU": st.integers(0, 3)}), max_size=4
    ),
    most=st.integers(1, 12),
    batch=st.integers(1, 48),
    use_gpu=st.booleans(),
)
def test_after_a_loss_what_is_chosen_can_be_placed_and_nothing_larger_could(
    nodes: list[dict[str, float]], most: int, batch: int, use_gpu: bool
) -> None:
    """Without a GPU left, a run on GPUs does not go on."""

    def places(share: int) -> int:
        by_cores = [int(node["CPU"]) // share for node in nodes]
        return sum(
            min(cores, int(node["GPU"])) if use_gpu else cores
            for cores, node in zip(by_cores, nodes, strict=True)
        )

    found = fewer_resources(most, nodes, lambda count: batch % count == 0, use_gpu=use_gpu)
    possible = [n for n in range(1, most + 1) if gcd(n, batch) == n and n <= places(1)]
    if found is None:
        assert not possible
    else:
        assert found.num_workers == max(possible)
        assert places(found.cpus_per_worker + 1) < found.num_workers
        assert found.num_workers <= places(found.cpus_per_worker)
