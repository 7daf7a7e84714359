"""The most memory that this process held at once."""

import sys


def peak_memory() -> int:
    """Return the most bytes that this process held in memory at once, mapped model files included.

    On Linux from /proc: the figure of getrusage survives exec (`setmax_mm_hiwater_rss` in the kernel's exec_mmap), so
    that of a child is at least what its parent held when it started the child.
    """
    try:
        with open("/proc/self/status", "rb") as file:  # noqa: PTH123 - pathlib would be half of the reader's imports
            for line in file:
                if line.startswith(b"VmHWM:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def forget_peak() -> bool:
    """Let `peak_memory` count anew from what is held now; False where the system cannot do that."""
    try:
        with open("/proc/self/clear_refs", "wb") as file:  # noqa: PTH123 - as above
            file.write(b"5")
    except OSError:
        return False
    return True
