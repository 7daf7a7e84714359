"""Environments for baselines: a Python of their own with pinned packages, made when asked for, in ggufkit's cache.

An environment counts once its stamp is there, which is written when everything that it is for could be imported. What
an interrupted making has installed stays, and the next one goes on from there.
"""

import hashlib
import json
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import TypeVar

from ggufkit.errors import LlamaCppError, MissingDependencyError, OutputError
from ggufkit.evaluation.baselines.runners.adapter import Recipe
from ggufkit.files import locked
from ggufkit.llamacpp import packages
from ggufkit.llamacpp.find import cache_folder
from ggufkit.llamacpp.run import run
from ggufkit.llamacpp.trees import check_room, size_of
from ggufkit.progress import Progress, silent

_Result = TypeVar("_Result")
_STAMP = "ggufkit.json"
_ROOM = 2_500_000_000  # bytes: an environment with torch takes 1.2 to 1.6 GB, and pip unpacks wheels beside it
_NAME = re.compile(r".+-[0-9a-f]{10}")  # as `folder_of` names them
_UV = (0, 5)  # the first versions with --torch-backend
_HINT = "check the network and pip's settings (pip config list); the same command goes on with what is there already"


@dataclass(frozen=True, slots=True)
class Environment:
    """A Python that can run baselines of a recipe; `is_ours`: the one that runs ggufkit."""

    recipe: str
    python: Path
    is_ours: bool


@dataclass(frozen=True, slots=True)
class Made:
    """What setting up has given; `was_there`: nothing had to be done."""

    environment: Environment
    folder: Path | None
    bytes: int
    was_there: bool


def find(recipe: Recipe) -> Environment | None:
    """Return the Python for a recipe: ours if it has what is accepted, else one that was made; None without one."""
    if _ours_will_do(recipe):
        return Environment(recipe.name, Path(sys.executable), is_ours=True)
    folder = folder_of(recipe)
    if (folder / _STAMP).is_file() and os.access(_python(folder), os.X_OK):
        return Environment(recipe.name, _python(folder), is_ours=False)
    return None


def folder_of(recipe: Recipe) -> Path:
    """Where an environment for this recipe lies; other versions, or another Python, have another folder."""
    told = {name: value for name, value in asdict(recipe).items() if name != "accepts"}
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    digest = hashlib.sha256(json.dumps([told, version, sys.base_prefix], sort_keys=True).encode()).hexdigest()
    return _root() / f"{recipe.name}-{digest[:10]}"


def _root() -> Path:
    return cache_folder() / "baselines"


@dataclass(frozen=True, slots=True)
class Kept:
    """An environment on the disk. `ready`: whole, and one that this ggufkit would use; else it only takes room."""

    recipe: str
    folder: Path
    bytes: int
    ready: bool


def kept(recipes: Iterable[Recipe]) -> list[Kept]:
    """Find all environments that were made, for whichever version; `recipes` are those that are known now."""
    current = {folder_of(recipe) for recipe in recipes}
    folders = sorted(path for path in _root().glob("*") if _NAME.fullmatch(path.name) and path.is_dir())
    return [
        Kept(
            folder.name.rpartition("-")[0],
            folder,
            size_of(folder),
            ready=folder in current and (folder / _STAMP).is_file() and os.access(_python(folder), os.X_OK),
        )
        for folder in folders
        if not folder.is_symlink()
    ]


def remove(environment: Kept) -> None:
    """Remove an environment.

    Raises:
        OutputError: another process is making it, or it cannot be removed.
    """
    with locked(environment.folder):
        # Without its stamp it counts no more, should the rest be interrupted.
        (environment.folder / _STAMP).unlink(missing_ok=True)
        try:
            shutil.rmtree(environment.folder)
        except OSError as error:
            raise OutputError(f"cannot remove {environment.folder}: {error.strerror}") from error


def set_up(
    recipe: Recipe,
    *,
    progress: Progress = silent,
    note: Callable[[str], None] = lambda text: None,  # noqa: ARG005 - the signature
) -> Made:
    """Make the environment of a recipe, unless there is one.

    Raises:
        MissingDependencyError: packages cannot be had, or do not work here.
        OutputError: the disk is too small, or another process is making the same one.
    """
    if found := find(recipe):
        folder = None if found.is_ours else folder_of(recipe)
        return Made(found, folder, size_of(folder) if folder else 0, was_there=True)
    folder = folder_of(recipe)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with locked(folder):
        if find(recipe) is None:
            began = folder.exists()
            if not began:
                check_room(folder.parent, _ROOM)
            try:
                _install(recipe, folder, progress, note)
            except _BrokenError as error:
                if not began:
                    raise MissingDependencyError(str(error)) from None
                shutil.rmtree(folder)  # what was there already may be half a package
                _install_or_give_up(recipe, folder, progress, note)
    return Made(Environment(recipe.name, _python(folder), is_ours=False), folder, size_of(folder), was_there=False)


class _BrokenError(Exception):
    """All is installed, and cannot be imported."""


def _install_or_give_up(recipe: Recipe, folder: Path, progress: Progress, note: Callable[[str], None]) -> None:
    try:
        _install(recipe, folder, progress, note)
    except _BrokenError as error:
        raise MissingDependencyError(str(error)) from None


def _install(recipe: Recipe, folder: Path, progress: Progress, note: Callable[[str], None]) -> None:
    stages = 4
    progress(f"Making {recipe.name}", 0, stages, "steps")
    if not os.access(_python(folder), os.X_OK):
        shutil.rmtree(folder, ignore_errors=True)
        _try(lambda: run([sys.executable, "-m", "venv", "--without-pip", folder]), f"make {folder}")
    progress(f"Making {recipe.name}", 1, stages, "steps")
    torch = [f"torch=={recipe.torch}"] if recipe.torch else []
    if torch:
        note(f"installing {torch[0]} for the CPU into {folder}")
        _install_torch(torch[0], folder)
    progress(f"Making {recipe.name}", 2, stages, "steps")
    note(f"installing {', '.join(recipe.requirements)}")
    # torch once more, so that no other package moves it to another version
    _pip(["install", "--quiet", *recipe.requirements, *torch], folder, f"install {recipe.requirements[0]}")
    for name in recipe.remove:
        _pip(["uninstall", "--quiet", "--yes", name], folder, f"remove {name}")
    progress(f"Making {recipe.name}", 3, stages, "steps")
    _prove(recipe, folder)
    (folder / _STAMP).write_text(json.dumps(asdict(recipe), indent=1) + "\n", encoding="utf-8")
    progress(f"Making {recipe.name}", stages, stages, "steps")


def _prove(recipe: Recipe, folder: Path) -> None:
    try:
        run([_python(folder), "-I", "-c", f"import {', '.join(recipe.imports)}"])
    except LlamaCppError as error:
        said = str(error).partition(" (command: ")[0].rpartition(" | ")[2]
        raise _BrokenError(f"the packages of {recipe.name} were installed, and do not work here: {said}") from None


def _install_torch(requirement: str, folder: Path) -> None:
    """Install torch without the gigabytes of CUDA packages that the default index would bring along."""
    if not _brings_gpu_packages(requirement, folder):
        _pip(["install", "--quiet", requirement], folder, f"install {requirement}")
        return
    uv = shutil.which("uv") or packages.install_program("uv", _UV)
    command = [uv, "pip", "install", "--quiet", "--python", _python(folder), "--torch-backend", "cpu", requirement]
    _try(lambda: run(command), f"install {requirement} for the CPU")


def _brings_gpu_packages(requirement: str, folder: Path) -> bool:
    """Ask pip what would come along, without installing it."""
    done = _pip(["install", "--quiet", "--dry-run", "--report", "-", requirement], folder, f"find {requirement}")
    start = done.find("{")
    names = (item["metadata"]["name"].lower().replace("_", "-") for item in json.loads(done[start:])["install"])
    return any(name.startswith("nvidia-") or name in {"triton", "cuda-bindings"} for name in names)


def _pip(arguments: list[str | Path], folder: Path, purpose: str) -> str:
    def work() -> str:
        return packages.pip(arguments, purpose=purpose, python=_python(folder)).stdout

    return _try(work, purpose)


def _try(work: Callable[[], _Result], purpose: str) -> _Result:
    """Do a step; its failure is that something is not to be had, which is no fault of llama.cpp's."""
    try:
        return work()
    except MissingDependencyError:
        raise
    except LlamaCppError as error:
        said = str(error).partition(" (command: ")[0]
        text = said if said.startswith("cannot ") else f"cannot {purpose}: {said}"
        raise MissingDependencyError(text, hint=_HINT) from None


def _python(folder: Path) -> Path:
    return folder / "bin" / "python"


def _ours_will_do(recipe: Recipe) -> bool:
    """Whether the running Python has everything, in versions that are accepted; nothing is imported."""
    if not recipe.accepts:
        return False
    for name, (least, below) in recipe.accepts.items():
        try:
            version = _numbers(metadata.version(name))
        except metadata.PackageNotFoundError:
            return False
        if not _numbers(least) <= version < _numbers(below):
            return False
    return True


def _numbers(version: str) -> tuple[int, ...]:
    found = re.match(r"\d+(\.\d+)*", version)
    return tuple(int(part) for part in found[0].split(".")) if found else ()
