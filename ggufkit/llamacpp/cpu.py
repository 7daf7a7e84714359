"""What of the machine this process may really use: physical cores within its affinity mask and quota, and memory."""

import contextlib
import ctypes
import os
import platform
import re
import sys
from pathlib import Path

_SYSTEM = Path("/")


def usable_cores(root: Path = _SYSTEM) -> int:
    """Return the best default number of threads: max(1, min(allowed physical cores, floor(cgroup quota))).

    Two hardware threads of one core share its arithmetic units, and threads beyond the quota are put to sleep: both
    make token generation slower, not faster. `root` stands for `/` in tests.
    """
    cores = physical_cores(allowed_cpus(), root)
    quota = cgroup_quota(root)
    return max(1, cores if quota is None else min(cores, int(quota)))


def allowed_cpus() -> set[int]:
    """Return the numbers of the logical CPUs that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return os.sched_getaffinity(0)
    return set(range(os.cpu_count() or 1))


def physical_cores(allowed: set[int], root: Path = _SYSTEM) -> int:
    """Return how many different physical cores the logical CPUs in `allowed` lie on."""
    if sys.platform == "darwin":
        return min(_darwin_cores() or len(allowed), len(allowed))
    siblings = set()
    for cpu in allowed:
        folder = root / "sys/devices/system/cpu" / f"cpu{cpu}" / "topology"
        names = (folder / "thread_siblings_list", folder / "core_cpus_list")
        siblings.add(next((text for name in names if (text := _read(name))), f"cpu{cpu}"))
    return len(siblings)


def cgroup_quota(root: Path = _SYSTEM) -> float | None:
    """Return the CPUs' worth of time that cgroups (version 2 or 1) grant to this process; None without a limit.

    The limits of all enclosing groups hold, so the smallest one counts.
    """
    quotas = []
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, _, rest = line.partition(":")
        controllers, _, group = rest.partition(":")
        if not controllers:
            mount = root / "sys/fs/cgroup"
        elif "cpu" in controllers.split(","):
            mount = root / "sys/fs/cgroup/cpu"
        else:
            continue
        quotas += [quota for folder in _enclosing(mount, group) if (quota := _quota(folder)) is not None]
    return min(quotas, default=None)


def system_name() -> str:
    """Return the system and its release, such as `Linux-6.8.0-x86_64`; `platform.platform` would start a process."""
    system = platform.uname()
    return f"{system.system}-{system.release}-{system.machine}"


def model_name(root: Path = _SYSTEM) -> str:
    """Return what the CPU calls itself, else its architecture."""
    found = re.search(r"^model name\s*:\s*(.+)$", _read(root / "proc/cpuinfo"), re.MULTILINE)
    return found[1].strip() if found else platform.processor() or platform.machine()


def load_average() -> float:
    """Return how many programs wanted a CPU during the last minute; 0 where the system does not tell."""
    try:
        return os.getloadavg()[0]
    except OSError:
        return 0.0


def available_memory(root: Path = _SYSTEM) -> int:
    """Return the bytes of memory that can be used without swapping, and within the limits of cgroups."""
    found = re.search(r"^MemAvailable:\s*(\d+) kB", _read(root / "proc/meminfo"), re.MULTILINE)
    free = int(found[1]) * 1024 if found else total_memory() // 2
    return min([free, *_memory_limits(root)])


def usable_memory(root: Path = _SYSTEM) -> int:
    """Return the bytes of memory of this machine, or as many of them as cgroups allow."""
    return min([total_memory(), *_memory_limits(root)])


def _memory_limits(root: Path) -> list[int]:
    """Return the bytes that the enclosing cgroups (version 2 or 1) allow; "max" and absurdly much mean no limit."""
    limits = []
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, _, rest = line.partition(":")
        controllers, _, group = rest.partition(":")
        if controllers and "memory" not in controllers.split(","):
            continue
        mount = root / ("sys/fs/cgroup/memory" if controllers else "sys/fs/cgroup")
        for folder in _enclosing(mount, group):
            text = (_read(folder / "memory.max") or _read(folder / "memory.limit_in_bytes")).strip()
            limits += [int(text)] if text.isdecimal() else []
    return limits


def total_memory() -> int:
    """Return the bytes of memory of this machine."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _enclosing(mount: Path, group: str) -> list[Path]:
    """List the group's folder and those around it; inside a container only the mount itself may be visible."""
    parts = [part for part in group.split("/") if part not in {"", "..", "."}]
    return [mount.joinpath(*parts[:count]) for count in range(len(parts) + 1)]


def _quota(folder: Path) -> float | None:
    fields = _read(folder / "cpu.max").split() or [
        _read(folder / "cpu.cfs_quota_us").strip(),
        _read(folder / "cpu.cfs_period_us").strip(),
    ]
    with contextlib.suppress(ValueError, IndexError):  # "max": no limit
        quota, period = int(fields[0]), int(fields[1])
        if quota > 0 and period > 0:
            return quota / period
    return None


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""


def _darwin_cores() -> int:
    """Ask for the performance cores of an Apple chip, else for the physical cores."""
    libc = ctypes.CDLL(None)
    for name in (b"hw.perflevel0.physicalcpu", b"hw.physicalcpu"):
        value, size = ctypes.c_int(0), ctypes.c_size_t(ctypes.sizeof(ctypes.c_int))
        if libc.sysctlbyname(name, ctypes.byref(value), ctypes.byref(size), None, ctypes.c_size_t(0)) == 0:
            return value.value
    return 0
