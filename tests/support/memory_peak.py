"""How far the memory of this process has grown, at its highest, since a moment; 0 where the system does not tell."""

import re
from pathlib import Path


class MemoryPeak:
    """Starts to look at its making. Linux keeps the peak, and forgets it when asked to."""

    def __init__(self) -> None:
        self._before = 0
        try:
            Path("/proc/self/clear_refs").write_text("5")
            self._before = _status("VmRSS")
        except OSError:
            self._before = -1

    def grown(self) -> int:
        """Tell the bytes by which memory was larger, at its peak, than at the beginning."""
        return max(0, _status("VmHWM") - self._before) if self._before > 0 else 0


def _status(name: str) -> int:
    found = re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text(encoding="ascii"))
    return int(found[1]) * 1024 if found else 0
