"""Many ranks have the loss, gradients and queue of one process, for every method."""

from pathlib import Path

import pytest

from tests.training.methods import test_byol, test_contrastive, test_vicreg
from tests.training.methods.small import Scenario, assert_ranks_are_one_process


def scenarios() -> dict[str, Scenario]:
    return test_contrastive.scenarios() | test_byol.scenarios() | test_vicreg.scenarios()


@pytest.mark.parametrize("world_size", [2, 4])
def test_ranks_are_one_process(tmp_path: Path, world_size: int) -> None:
    """Batch norm included: its groups are no larger than a rank's batch."""
    assert_ranks_are_one_process(scenarios, world_size, tmp_path)
