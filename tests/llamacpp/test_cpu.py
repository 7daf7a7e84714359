"""Cores are counted as the scheduler and the cgroups grant them, not as the machine has them."""

import pytest

from ggufkit.llamacpp import cpu


@pytest.fixture
def machine(tmp_path):
    """Write a fake /sys and /proc: CPUs by core, a cgroup membership and cgroup files."""

    def make(cores, membership="0::/\n", **files):
        for core in cores:
            for number in core:
                folder = tmp_path / f"sys/devices/system/cpu/cpu{number}/topology"
                folder.mkdir(parents=True)
                (folder / "thread_siblings_list").write_text(",".join(map(str, core)) + "\n")
        (tmp_path / "proc/self").mkdir(parents=True)
        (tmp_path / "proc/self/cgroup").write_text(membership)
        for name, text in files.items():
            path = tmp_path / "sys/fs/cgroup" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return tmp_path

    return make


def test_hardware_threads_of_one_core_count_once(machine):
    root = machine([(0, 4), (1, 5), (2, 6), (3, 7)])
    assert cpu.physical_cores(set(range(8)), root) == 4


def test_affinity_limits_the_cores(machine):
    root = machine([(0, 4), (1, 5), (2, 6), (3, 7)])
    assert cpu.physical_cores({0, 4, 1}, root) == 2


def test_cpus_without_topology_count_one_each(tmp_path):
    assert cpu.physical_cores({0, 1, 2}, tmp_path) == 3


@pytest.mark.parametrize(
    ("membership", "files", "quota"),
    [
        ("0::/\n", {"cpu.max": "max 100000\n"}, None),
        ("0::/\n", {"cpu.max": "250000 100000\n"}, 2.5),
        # The group around ours is tighter than ours.
        ("0::/a/b\n", {"a/b/cpu.max": "800000 100000\n", "a/cpu.max": "150000 100000\n"}, 1.5),
        # Version 1, beside a version 2 hierarchy that limits nothing.
        ("4:cpu,cpuacct:/g\n0::/\n", {"cpu/g/cpu.cfs_quota_us": "300000", "cpu/g/cpu.cfs_period_us": "100000"}, 3.0),
        ("4:cpu,cpuacct:/g\n", {"cpu/g/cpu.cfs_quota_us": "-1", "cpu/g/cpu.cfs_period_us": "100000"}, None),
        # In a container the path is the host's and only the mount itself is there.
        ("0::/../../host/path\n", {"cpu.max": "50000 100000\n"}, 0.5),
        ("0::/\n", {"cpu.max": "garbage"}, None),
    ],
)
def test_quota(machine, membership, files, quota):
    assert cpu.cgroup_quota(machine([(0,)], membership, **files)) == quota


@pytest.mark.parametrize(("quota", "expected"), [("max 100000", 4), ("250000 100000", 2), ("20000 100000", 1)])
def test_usable_cores_take_the_smaller_and_at_least_one(machine, monkeypatch, quota, expected):
    monkeypatch.setattr(cpu, "allowed_cpus", lambda: set(range(8)))
    root = machine([(0, 4), (1, 5), (2, 6), (3, 7)], **{"cpu.max": quota})
    assert cpu.usable_cores(root) == expected


def test_this_machine_has_a_core():
    assert 1 <= cpu.usable_cores() <= len(cpu.allowed_cpus())
    assert 0 < cpu.available_memory() <= cpu.total_memory()
