"""What is installed, what this machine offers, what is missing, and the command that fixes it."""

import importlib.metadata
import os
import platform
import re
import shutil
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path

from ggufkit import __version__
from ggufkit.errors import GgufkitError
from ggufkit.llamacpp import binding, build, cpu, devices, find
from ggufkit.llamacpp.pin import checkout, pin

_REQUIREMENT = re.compile(r"(?P<name>[\w.-]+)(?:\[[^]]*\])?\s*\(?(?P<bounds>[^;)]*)\)?\s*(?:;(?P<marker>.*))?")
_BOUND = re.compile(r"(>=|<=|==|<|>)\s*([\d.]+)")


_NEEDED_FOR = {
    "hf": "verify and llama.cpp's converter",
    "refine": "optimize --refine in less time",
    "cluster": "optimize --workers",
}
# What scripts/setup is told for an extra: it knows how to get a torch without gigabytes of CUDA.
_SET_UP = {"": "", "hf": " --test"}


@dataclass(frozen=True, slots=True)
class Problem:
    """Something missing or wrong, and the command that fixes it; without what is `needed` ggufkit is not usable."""

    what: str
    fix: str
    needed: bool


@dataclass(frozen=True, slots=True)
class Package:
    """A Python package that ggufkit uses; `extra` is empty for the ones that it always needs."""

    name: str
    wanted: str
    version: str | None
    extra: str

    @property
    def is_fine(self) -> bool:
        """Say whether it is there in a version that is good enough."""
        return self.version is not None and satisfies(self.version, self.wanted)


@dataclass(frozen=True, slots=True)
class Build:
    """The llama.cpp that was found: where, how, and what it says about itself (empty when it does not load)."""

    folder: Path
    origin: str
    version: str
    commit: str
    backends: tuple[str, ...]
    features: tuple[str, ...]
    devices: tuple[devices.Device, ...]
    compiler: str


@dataclass(frozen=True, slots=True)
class Machine:
    """What this process may use of the machine; bytes, and CPUs as a number of them."""

    system: str
    cpu: str
    logical_cpus: int
    allowed_cpus: int
    physical_cores: int
    cgroup_quota: float | None
    usable_cores: int
    memory_total: int
    memory_available: int


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """The whole answer of `ggufkit doctor`."""

    ggufkit: str
    location: Path
    python: str
    executable: str
    pinned_version: str
    pinned_commit: str
    binding: str | None
    build: Build | None
    machine: Machine
    disk_free: dict[Path, int]
    compiler: str | None
    packages: tuple[Package, ...]
    problems: tuple[Problem, ...]

    @property
    def usable(self) -> bool:
        """Say whether nothing that is needed is missing."""
        return not any(problem.needed for problem in self.problems)


def diagnose() -> Diagnosis:
    """Look at everything. Never raises for what is missing: that is the answer."""
    problems: list[Problem] = []
    found = _look_at_build(problems)
    bound = binding.installed_version()
    if bound != pin().version:
        state = f"is version {bound}" if bound else "is not installed"
        problems.append(Problem(f"{pin().package} {state}; {pin().version} is needed to chat", "ggufkit setup", True))
    compiler = _look_at_compiler(problems, needed=found is None)
    packages = _packages()
    problems += _package_problems(packages)
    folders = (find.cache_folder(), find.home())
    return Diagnosis(
        ggufkit=__version__,
        location=checkout() or Path(__file__).parents[1],
        python=platform.python_version(),
        executable=sys.executable,
        pinned_version=pin().version,
        pinned_commit=pin().commit,
        binding=bound,
        build=found,
        machine=look_at_machine(),
        disk_free={folder: shutil.disk_usage(_existing(folder)).free for folder in folders},
        compiler=compiler,
        packages=packages,
        problems=tuple(problems),
    )


def look_at_machine() -> Machine:
    """Count what this process may use."""
    allowed = cpu.allowed_cpus()
    return Machine(
        system=f"{platform.system()} {platform.release()} {platform.machine()}",
        cpu=cpu.model_name(),
        logical_cpus=os.cpu_count() or 1,
        allowed_cpus=len(allowed),
        physical_cores=cpu.physical_cores(allowed),
        cgroup_quota=cpu.cgroup_quota(),
        usable_cores=cpu.usable_cores(),
        memory_total=cpu.total_memory(),
        memory_available=cpu.available_memory(),
    )


def satisfies(version: str, wanted: str) -> bool:
    """Compare a version with bounds as in `>=0.19,<0.20`, by its release numbers."""
    have = _release(version)
    for operator, bound in _BOUND.findall(wanted):
        limit = _release(bound)
        width = max(len(have), len(limit))
        left, right = (numbers + (0,) * (width - len(numbers)) for numbers in (have, limit))
        holds = {">=": left >= right, "<=": left <= right, "==": left == right, "<": left < right, ">": left > right}
        if not holds[operator]:
            return False
    return True


def _look_at_build(problems: list[Problem]) -> Build | None:
    try:
        installation = find.find()
    except GgufkitError as error:
        problems.append(Problem(str(error), error.hint or "ggufkit setup", True))
        return None
    problems += [
        Problem(f"the build lacks {name}", "ggufkit setup --force", name == "llama-quantize")
        for name in pin().tools
        if not (installation.bin / name).is_file()
    ]
    stamp = installation.stamp()
    if stamp and stamp.get("machine") != build.machine_identity():
        problems.append(Problem("the build was made for another CPU", "ggufkit setup", False))
    try:
        says = devices.ask(installation)
    except GgufkitError as error:
        problems.append(Problem(f"the build does not load: {error}", "ggufkit setup --force", True))
        says = devices.Libraries(stamp.get("version", ""), stamp.get("commit", ""), (), ())
    if not _same_commit(says.commit, pin().commit):
        what = f"the build in {installation.root} is of commit {says.commit}; this ggufkit is made for {pin().commit}"
        problems.append(Problem(what, f"unset {find.VARIABLE} && ggufkit setup", False))
    return Build(
        folder=installation.root,
        origin=installation.origin.value,
        version=says.version,
        commit=says.commit,
        backends=tuple(dict.fromkeys(device.backend for device in says.devices)),
        features=says.features,
        devices=says.devices,
        compiler=stamp.get("compiler", ""),
    )


def _same_commit(said: str, pinned: str) -> bool:
    """Compare abbreviated commits; a build that does not know its own is given the benefit of the doubt."""
    said = said.removesuffix("-dirty")
    return said in {"", "unknown"} or said.startswith(pinned) or pinned.startswith(said)


def _look_at_compiler(problems: list[Problem], *, needed: bool) -> str | None:
    try:
        return build.find_compiler().identity
    except GgufkitError as error:
        problems.append(Problem(str(error), error.hint or "", needed))
        return None


def _packages() -> tuple[Package, ...]:
    try:
        requirements = importlib.metadata.requires("ggufkit") or []
    except importlib.metadata.PackageNotFoundError:
        requirements = _declared()
    packages = []
    for text in requirements:
        if found := _REQUIREMENT.fullmatch(text.strip()):
            extra = re.search(r"extra\s*==\s*['\"]([\w-]+)['\"]", found["marker"] or "")
            packages.append(
                Package(found["name"], found["bounds"].strip(), _version(found["name"]), extra[1] if extra else "")
            )
    return tuple(package for package in packages if package.name != pin().package)


def _declared() -> list[str]:
    """Read the requirements of a checkout that runs without being installed."""
    root = checkout()
    if root is None:
        return []
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project.get("optional-dependencies", {})
    return [*project["dependencies"], *(f"{text}; extra == '{name}'" for name in extras for text in extras[name])]


def _package_problems(packages: tuple[Package, ...]) -> list[Problem]:
    problems = []
    for extra in dict.fromkeys(package.extra for package in packages):
        bad = [package for package in packages if package.extra == extra and not package.is_fine]
        if bad:
            names = ", ".join(f"{package.name} {package.version or 'missing'} ({package.wanted})" for package in bad)
            what = f"for {_NEEDED_FOR[extra]}: {names}" if extra in _NEEDED_FOR else names
            problems.append(Problem(what, _package_fix(extra), not extra))
    return problems


def _package_fix(extra: str) -> str:
    suffix = f"[{extra}]" if extra else ""
    root = checkout()
    if root and extra in _SET_UP:
        return f"{root / 'scripts' / 'setup'}{_SET_UP[extra]}"
    package = f"--editable '{root}{suffix}'" if root else f"'ggufkit{suffix}'"
    return f"{sys.executable} -m pip install {package}"


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _release(version: str) -> tuple[int, ...]:
    found = re.match(r"\d+(\.\d+)*", version)
    return tuple(int(part) for part in found[0].split(".")) if found else ()


def _existing(folder: Path) -> Path:
    return next(place for place in (folder, *folder.parents) if place.exists())
