"""How many workers there are, and the cores of each, on nodes of every kind."""

from collections.abc import Callable
from math import gcd

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.errors import InputError
from training.config.resources import Resources, fewer_resources, first_resources


def anything(count: int) -> bool:
    return True


def divides(batch: int) -> Callable[[int], bool]:
    return lambda count: batch % count == 0


def test_auto_is_one_worker_per_gpu_with_its_share_of_the_cores() -> None:
    nodes = [{"CPU": 16.0, "GPU": 2.0}, {"CPU": 8.0, "GPU": 2.0}]
    assert first_resources("auto", nodes, anything) == Resources(4, 4, True)


def test_auto_takes_the_largest_number_that_divides_the_batch() -> None:
    nodes = [{"CPU": 8.0, "GPU": 8.0}, {"CPU": 8.0, "GPU": 4.0}]
    assert first_resources("auto", nodes, divides(64)) == Resources(8, 2, True)
    assert first_resources("auto", nodes, divides(49)) == Resources(7, 2, True)
    # Nothing suits: one worker, so that the checks of the batch say why.
    assert first_resources("auto", nodes, lambda count: False) == Resources(1, 8, True)


def test_without_gpus_auto_is_one_worker_per_node() -> None:
    assert first_resources("auto", [{"CPU": 8.0}], anything) == Resources(1, 8, False)
    nodes = [{"CPU": 8.0}, {"memory": 1.0}, {"CPU": 6.0}]  # a head node without work
    assert first_resources("auto", nodes, anything) == Resources(2, 6, False)


def test_a_number_is_taken_as_it_is() -> None:
    assert first_resources(2, [{"CPU": 2.0}], anything) == Resources(2, 1, False)
    assert first_resources(3, [{"CPU": 4.0}, {"CPU": 2.0}], anything) == Resources(3, 2, False)
    # Cores without a GPU beside them do not help a worker that needs one.
    nodes = [{"CPU": 64.0}, {"CPU": 8.0, "GPU": 2.0}]
    assert first_resources(2, nodes, anything) == Resources(2, 4, True)


def test_more_workers_than_the_cluster_holds_are_refused_with_the_numbers() -> None:
    with pytest.raises(InputError, match="3 workers were asked for, the cluster has 2 CPUs"):
        first_resources(3, [{"CPU": 2.0}], anything)
    with pytest.raises(InputError, match="4 workers were asked for, the cluster has 1 GPUs"):
        first_resources(4, [{"CPU": 8.0, "GPU": 1.0}], anything)


def test_after_a_loss_the_largest_number_that_fits_cluster_and_batch() -> None:
    left = [{"CPU": 3.0}, {"CPU": 2.0}]
    assert fewer_resources(8, left, divides(64), use_gpu=False) == Resources(4, 1, False)
    assert fewer_resources(2, left, divides(64), use_gpu=False) == Resources(2, 2, False)
    assert fewer_resources(8, left, divides(45), use_gpu=False) == Resources(5, 1, False)
    # A run on GPUs does not go on without.
    assert fewer_resources(8, left, divides(64), use_gpu=True) is None
    assert fewer_resources(8, [], divides(64), use_gpu=False) is None


@given(
    nodes=st.lists(
        st.fixed_dictionaries({"CPU": st.integers(0, 9), "GPU": st.integers(0, 3)}), max_size=4
    ),
    most=st.integers(1, 12),
    batch=st.integers(1, 48),
    use_gpu=st.booleans(),
)
def test_what_is_chosen_can_be_placed_and_nothing_larger_could(
    nodes: list[dict[str, float]], most: int, batch: int, use_gpu: bool
) -> None:
    def places(share: int) -> int:
        by_cores = [int(node["CPU"]) // share for node in nodes]
        return sum(
            min(cores, int(node["GPU"])) if use_gpu else cores
            for cores, node in zip(by_cores, nodes, strict=True)
        )

    found = fewer_resources(most, nodes, divides(batch), use_gpu=use_gpu)
    possible = [n for n in range(1, most + 1) if gcd(n, batch) == n and n <= places(1)]
    if found is None:
        assert not possible
    else:
        assert found.num_workers == max(possible)
        assert found.num_workers <= places(found.cpus_per_worker)
        assert found.num_workers > places(found.cpus_per_worker + 1)
