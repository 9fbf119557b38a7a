"""What several benchmarks need."""

from collections.abc import Iterator

import pytest
import torch

from pipeline.core.memory import keep_freed_memory


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Arithmetic on one thread, and memory kept as the training loop keeps it."""
    keep_freed_memory()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
