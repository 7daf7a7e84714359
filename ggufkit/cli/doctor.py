"""`ggufkit doctor`: what is installed, what this machine offers, what is missing and the command that fixes it."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from ggufkit.cli import _options, _output
from ggufkit.errors import MissingDependencyError

if TYPE_CHECKING:
    from ggufkit.llamacpp.diagnosis import Diagnosis


def command(as_json: _options.Json = False) -> None:
    """Show what is installed, what this machine offers, and what is missing. Exit code 3 when something needed is."""
    from ggufkit.llamacpp.diagnosis import diagnose

    diagnosis = diagnose()
    if as_json:
        _output.print_json({"usable": diagnosis.usable, **_plain(dataclasses.asdict(diagnosis))})
    else:
        print("\n".join(_lines(diagnosis)))
    if not diagnosis.usable:
        raise typer.Exit(MissingDependencyError.exit_code)


def _plain(value: Any) -> Any:
    """Make what JSON cannot hold into what it can: paths become strings, also as keys."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def _lines(found: "Diagnosis") -> list[str]:
    machine = found.machine
    quota = "none" if machine.cgroup_quota is None else f"{machine.cgroup_quota:g} CPUs"
    lines = [
        _row("ggufkit", f"{found.ggufkit} in {found.location}"),
        _row("Python", f"{found.python} ({found.executable})"),
        _row("llama.cpp", *_build_lines(found)),
        _row("binding", f"llama-cpp-python {found.binding or 'not installed'} (pinned: {found.pinned_version})"),
        _row("machine", machine.system, machine.cpu),
        _row(
            "cores",
            f"{machine.usable_cores} usable: {machine.physical_cores} physical in {machine.allowed_cpus} of "
            f"{machine.logical_cpus} logical CPUs; quota: {quota}",
        ),
        _row("memory", f"{_output.size(machine.memory_available)} free of {_output.size(machine.memory_total)}"),
        _row("disk", *(f"{_output.size(free)} free for {folder}" for folder, free in found.disk_free.items())),
        _row("compiler", found.compiler or "none"),
        _row("packages", *_package_lines(found)),
    ]
    if found.problems:
        lines.append("")
    for problem in found.problems:
        lines += [f"{'missing' if problem.needed else 'note'}: {problem.what}", f"   fix: {problem.fix}"]
    lines += ["", "ready" if found.usable else "not ready: something needed is missing"]
    return lines


def _row(title: str, *values: str) -> str:
    return "\n".join(f"{title if index == 0 else '':12}{value}" for index, value in enumerate(values))


def _build_lines(found: "Diagnosis") -> list[str]:
    build = found.build
    if build is None:
        return [f"not built (pinned: {found.pinned_version}, commit {found.pinned_commit})"]
    lines = [f"{build.version} commit {build.commit or 'unknown'} in {build.folder} (found by {build.origin})"]
    if build.compiler:
        lines.append(f"made with {build.compiler}")
    for device in build.devices:
        # The CPU's memory has a row of its own.
        memory = f", {_output.size(device.memory_free)} free of {_output.size(device.memory_total)}"
        lines.append(f"{device.name} ({device.backend}): {device.description}{'' if device.kind == 'cpu' else memory}")
    if build.features:
        lines.append(f"features {' '.join(build.features)}")
    return lines


def _package_lines(found: "Diagnosis") -> list[str]:
    lines = []
    for extra in dict.fromkeys(package.extra for package in found.packages):
        packages = (package for package in found.packages if package.extra == extra)
        names = (
            f"{package.name} {package.version or 'missing'}{'' if package.is_fine else ' (!)'}" for package in packages
        )
        lines.append((f"[{extra}] " if extra else "") + ", ".join(names))
    return lines or ["unknown: ggufkit is not installed as a package"]
