"""What the tests of faults share: one folder of inputs, and one warm process that commands are forked from."""

from collections.abc import Iterator

import pytest
import syscall_faults
from fault_runs import FaultBench


@pytest.fixture(scope="session")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FaultBench]:
    with FaultBench(tmp_path_factory.mktemp("faults")) as opened:
        yield opened


@pytest.fixture(scope="session")
def watched() -> None:
    """Skip what needs to see system calls, where the kernel does not show them."""
    if reason := syscall_faults.why_not():
        pytest.skip(reason)
