"""Loading NumPy without the threads of its linear algebra, where nothing multiplies matrices: half of what it costs."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

_THREADS = "OPENBLAS_NUM_THREADS"  # read when the library is loaded; its threads spin before they sleep


@contextmanager
def idle_blas() -> Iterator[None]:
    """Let imports in this block load OpenBLAS with the calling thread alone; what the user has set stays."""
    if _THREADS in os.environ:
        yield
        return
    os.environ[_THREADS] = "1"
    try:
        yield
    finally:
        del os.environ[_THREADS]
