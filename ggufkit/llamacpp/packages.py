"""Using the Python package installer, with whatever index, mirror or proxy the user has configured for it."""

import importlib.util
import os
import re
import shutil
import sys
import sysconfig
from collections.abc import Callable, Sequence
from pathlib import Path

from ggufkit.errors import LlamaCppError, MissingDependencyError
from ggufkit.llamacpp import find, run

# What uv calls the setting that pip calls this, for environments that have uv's configuration only.
_UV_SETTINGS = {
    "PIP_INDEX_URL": ("UV_DEFAULT_INDEX", "UV_INDEX_URL"),
    "PIP_EXTRA_INDEX_URL": ("UV_EXTRA_INDEX_URL",),
    "PIP_FIND_LINKS": ("UV_FIND_LINKS",),
}


def pip(
    arguments: Sequence[str | Path],
    *,
    purpose: str,
    environment: dict[str, str] | None = None,
    on_line: Callable[[str], None] | None = None,
    python: Path | None = None,
) -> run.Completed:
    """Run pip on the running Python's environment, or on another one's.

    Args:
        arguments: what follows `pip`.
        purpose: what it is for, as in "download llama-cpp-python": the error begins with it.
        environment: variables to add.
        on_line: called with each line of output.
        python: the other environment's Python, which needs no pip of its own.

    Raises:
        MissingDependencyError: no pip can be found or made, or the environment is managed by the operating system.
        LlamaCppError: pip failed; the message says why.
    """
    command = [*_pip_command(python), "--disable-pip-version-check", "--no-input", *arguments]
    try:
        return run.run(command, environment={**_uv_settings(), **(environment or {})}, on_line=on_line)
    except LlamaCppError as error:
        raise _explain(error, purpose, ours=python is None) from error


def is_externally_managed() -> bool:
    """Say whether the operating system forbids pip to install into the running Python."""
    marker = Path(sysconfig.get_path("stdlib")) / "EXTERNALLY-MANAGED"
    return sys.prefix == sys.base_prefix and marker.is_file()


def externally_managed(purpose: str) -> MissingDependencyError:
    """Make the error for such a Python."""
    return MissingDependencyError(
        f"cannot {purpose}: this Python belongs to the operating system, which forbids it",
        hint="python3 -m venv ~/ggufkit && ~/ggufkit/bin/pip install ggufkit && ~/ggufkit/bin/ggufkit setup",
    )


def install_program(name: str, minimum: tuple[int, ...]) -> Path:
    """Find a build tool on the PATH, else in our cache, else install its wheel into our cache.

    Raises:
        MissingDependencyError: there is no pip.
        LlamaCppError: the wheel cannot be installed.
    """
    folder = find.cache_folder() / "tools" / f"{name}-{sys.platform}-{os.uname().machine}"
    wheel_places = (folder / name / "data" / "bin" / name, folder / "bin" / name)
    for path in (shutil.which(name), *wheel_places):
        if path and os.access(path, os.X_OK) and version_of(Path(path)) >= minimum:
            return Path(path)
    shutil.rmtree(folder, ignore_errors=True)
    wanted = f"{name}>={'.'.join(map(str, minimum))}"
    pip(["install", "--quiet", "--only-binary", name, "--target", folder, wanted], purpose=f"install {name}")
    for path in wheel_places:
        if os.access(path, os.X_OK) and version_of(path) >= minimum:
            return path
    raise LlamaCppError(f"the package {name} holds no usable program", hint=f"install {wanted} on this machine")


def version_of(program: Path) -> tuple[int, ...]:
    """Return the version that a program prints for `--version`; empty when it does not run."""
    try:
        text = run.run([program, "--version"]).stdout
    except (LlamaCppError, MissingDependencyError):
        return ()
    found = re.search(r"\d+(\.\d+)+", text)
    return tuple(int(part) for part in found[0].split(".")) if found else ()


def _pip_command(python: Path | None = None) -> list[str]:
    if importlib.util.find_spec("pip"):
        return [sys.executable, "-m", "pip", *(["--python", str(python)] if python else [])]
    # A virtual environment without pip, as uv makes them: use a pip of our own on it.
    folder = find.cache_folder() / "tools" / f"pip-{sys.version_info.major}.{sys.version_info.minor}"
    own = folder / "bin" / "python"
    if not (folder / "bin" / "pip").exists():
        _make_pip(folder)
    return [str(own), "-m", "pip", "--python", str(python or sys.executable)]


def _make_pip(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    uv = shutil.which("uv")
    attempts: list[list[list[str]]] = [[[sys.executable, "-m", "venv", str(folder)]]]
    if uv:
        attempts.append([[uv, "venv", "--seed", "--quiet", "--python", sys.executable, str(folder)]])
    for commands in attempts:
        try:
            for command in commands:
                run.run(command)
        except LlamaCppError:
            shutil.rmtree(folder, ignore_errors=True)
        else:
            return
    raise MissingDependencyError(
        f"this Python has no pip, and none could be made: {sys.executable}",
        hint=f"{sys.executable} -m ensurepip   (on Debian and Ubuntu first: apt-get install python3-venv)",
    )


def _uv_settings() -> dict[str, str]:
    found = {}
    for setting, names in _UV_SETTINGS.items():
        value = next((os.environ[name] for name in names if os.environ.get(name)), None)
        if value and setting not in os.environ:
            found[setting] = value
    return found


def _explain(error: LlamaCppError, purpose: str, *, ours: bool = True) -> LlamaCppError | MissingDependencyError:
    text = str(error)
    # Of what pip said only its own conclusions: the rest is retries and warnings.
    said = " ".join(found.strip() for found in re.findall(r"ERROR: ([^|]*)", text.partition(" (command: ")[0])) or text
    if ours and ("externally-managed-environment" in text or is_externally_managed()):
        return externally_managed(purpose)
    if re.search(r"ProxyError|ConnectionError|NewConnectionError|Temporary failure|timed out|Cannot connect", text):
        return LlamaCppError(
            f"cannot {purpose}: the package index cannot be reached ({said})",
            hint="check the network and pip's index and proxy settings (pip config list), or give --sdist FILE",
        )
    return LlamaCppError(f"cannot {purpose}: {said}", hint="check pip's index and proxy settings: pip config list")
