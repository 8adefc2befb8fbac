"""Settings of all tests of structmat_nn."""

import pytest
import torch


@pytest.fixture(autouse=True)
def one_thread_and_a_seed():
    """Small batched products gain nothing from threads, and two test processes share the cores."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(threads)
