"""Environments made of a folder of wheels, without any network: whole, found again, gone on with, and honest."""

import base64
import hashlib
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from ggufkit.errors import MissingDependencyError, OutputError
from ggufkit.evaluation.baselines import environments
from ggufkit.evaluation.baselines.runners.adapter import Recipe
from ggufkit.files import locked
from ggufkit.llamacpp import packages
from ggufkit.llamacpp.run import run

RECIPE = Recipe("tiny", ("tinypackage==1.0",), ("tinypackage",), torch="", remove=("unwanted",))


def make_wheel(folder: Path, name: str, version: str, code: str, needs: str = "") -> None:
    """Write a wheel by the format's definition (PEP 427)."""
    about = f"{name}-{version}.dist-info"
    files = {
        f"{name}.py": code,
        f"{about}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
        + (f"Requires-Dist: {needs}\n" if needs else ""),
        f"{about}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = ""
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as archive:
        for path, text in files.items():
            archive.writestr(path, text)
            digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
            record += f"{path},sha256={digest},{len(text)}\n"
        archive.writestr(f"{about}/RECORD", f"{record}{about}/RECORD,,\n")


@pytest.fixture
def wheels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give a folder that is all that pip may install from, and an empty cache."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    for name in ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("GGUFKIT_CACHE", str(tmp_path / "cache"))
    return folder


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Give what pip is asked for, in order."""
    found: list[str] = []
    pip = packages.pip

    def watched(arguments, **more):  # type: ignore[no-untyped-def]  # as `pip`
        found.append(f"{arguments[0]} {arguments[-1]}")
        return pip(arguments, **more)

    monkeypatch.setattr(packages, "pip", watched)
    return found


def test_an_environment_has_what_its_recipe_says_and_nothing_of_ours(wheels: Path, asked: list[str]):
    make_wheel(wheels, "tinypackage", "1.0", "VALUE = 41 + 1\n", needs="unwanted")
    make_wheel(wheels, "tinypackage", "2.0", "VALUE = 0\n")
    make_wheel(wheels, "unwanted", "0.1", "")
    assert environments.find(RECIPE) is None
    made = environments.set_up(RECIPE)
    assert not made.was_there
    assert made.environment == environments.find(RECIPE)
    python = made.environment.python
    assert python.is_relative_to(wheels.parent / "cache" / "baselines")
    assert run([python, "-I", "-c", "import tinypackage; print(tinypackage.VALUE)"]).stdout == "42\n"
    for absent in ("unwanted", "numpy", "ggufkit"):
        code = f"import importlib.util; print(importlib.util.find_spec({absent!r}))"
        assert run([python, "-I", "-c", code]).stdout == "None\n"
    asked.clear()
    again = environments.set_up(RECIPE)
    assert again.was_there
    assert again.environment == made.environment
    assert asked == []


def test_an_interrupted_making_is_no_environment_and_is_gone_on_with(
    wheels: Path, asked: list[str], monkeypatch: pytest.MonkeyPatch
):
    make_wheel(wheels, "tinypackage", "1.0", "")
    prove = environments._prove
    monkeypatch.setattr(environments, "_prove", _interrupt)
    with pytest.raises(KeyboardInterrupt):
        environments.set_up(RECIPE)
    assert environments.find(RECIPE) is None
    folder = environments.folder_of(RECIPE)
    installed = next(folder.rglob("tinypackage.py")).stat().st_mtime_ns
    monkeypatch.setattr(environments, "_prove", prove)
    environments.set_up(RECIPE)
    assert environments.find(RECIPE) is not None
    assert next(folder.rglob("tinypackage.py")).stat().st_mtime_ns == installed


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def test_half_a_package_of_an_interrupted_making_is_made_anew(wheels: Path, monkeypatch: pytest.MonkeyPatch):
    make_wheel(wheels, "tinypackage", "1.0", "VALUE = 1\n")
    with monkeypatch.context() as patch:
        patch.setattr(environments, "_prove", _interrupt)
        with pytest.raises(KeyboardInterrupt):
            environments.set_up(RECIPE)
    next(environments.folder_of(RECIPE).rglob("tinypackage.py")).unlink()
    python = environments.set_up(RECIPE).environment.python
    assert run([python, "-I", "-c", "import tinypackage; print(tinypackage.VALUE)"]).stdout == "1\n"


def test_packages_that_do_not_work_here_are_said(wheels: Path):
    make_wheel(wheels, "tinypackage", "1.0", "raise OSError('no such processor')\n")
    with pytest.raises(MissingDependencyError, match="OSError: no such processor"):
        environments.set_up(RECIPE)
    assert environments.find(RECIPE) is None


def test_packages_that_are_not_to_be_had_are_said(wheels: Path):
    with pytest.raises(MissingDependencyError, match=r"cannot install tinypackage==1\.0") as raised:
        environments.set_up(RECIPE)
    assert "pip config list" in str(raised.value.hint)
    assert environments.find(RECIPE) is None


def test_an_index_out_of_reach_is_said(wheels: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")  # the port of `discard`: nobody listens
    monkeypatch.setenv("PIP_RETRIES", "0")
    monkeypatch.setenv("PIP_PROXY", "")
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(MissingDependencyError, match="cannot install tinypackage"):
        environments.set_up(RECIPE)


def test_two_at_once_do_not_make_the_same_one(wheels: Path):
    folder = environments.folder_of(RECIPE)
    folder.parent.mkdir(parents=True)
    with locked(folder), pytest.raises(OutputError, match="is being written by process"):
        environments.set_up(RECIPE)


@pytest.mark.parametrize(
    ("accepts", "good"),
    [
        ({"pytest": ("1", "99")}, True),
        ({"pytest": ("1", "2")}, False),
        ({"pytest": ("98", "99")}, False),
        ({"pytest": ("1", "99"), "no-such-package": ("1", "2")}, False),
        ({}, False),
    ],
)
def test_our_own_python_does_when_it_has_what_is_accepted(
    accepts: dict[str, tuple[str, str]], good: bool, wheels: Path
):
    found = environments.find(Recipe("ours", ("tinypackage==1.0",), ("tinypackage",), accepts=accepts))
    assert (found is not None) == good
    if found:
        assert found.is_ours
        assert found.python == Path(sys.executable)


def test_torch_is_installed_from_pip_where_it_brings_no_gpu_packages(wheels: Path, asked: list[str]):
    make_wheel(wheels, "torch", "1.2.3", "")
    make_wheel(wheels, "tinypackage", "1.0", "import torch\n")
    recipe = Recipe("with-torch", ("tinypackage==1.0",), ("torch", "tinypackage"), torch="1.2.3")
    assert environments.set_up(recipe).environment == environments.find(recipe)


def test_torch_that_would_bring_gpu_packages_is_left_to_uv(
    wheels: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uv_stand_in: Callable[[], list[str]]
):
    make_wheel(wheels, "torch", "1.2.3", "", needs="nvidia-something")
    make_wheel(wheels, "nvidia_something", "1", "")
    make_wheel(wheels, "tinypackage", "1.0", "")
    recipe = Recipe("gpu-torch", ("tinypackage==1.0",), ("tinypackage",), torch="1.2.3")
    with pytest.raises(MissingDependencyError, match=r"torch==1\.2\.3 for the CPU: .*uv cannot reach its index"):
        environments.set_up(recipe)
    (arguments,) = uv_stand_in()
    assert "--torch-backend cpu torch==1.2.3" in arguments


@pytest.fixture
def uv_stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[str]]:
    """Put a `uv` first on the PATH that notes what it is asked for, and fails."""
    folder = tmp_path / "bin"
    folder.mkdir()
    noted = tmp_path / "noted"
    program = folder / "uv"
    program.write_text(f'#!/bin/sh\necho "$@" >> "{noted}"\necho "uv cannot reach its index" >&2\nexit 2\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=":")
    return lambda: noted.read_text().splitlines()


def test_what_is_kept_is_told_and_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Those of other versions count as unused; what is no environment of ours, or is being made, stays."""
    monkeypatch.setenv("GGUFKIT_CACHE", str(tmp_path))
    used = environments.folder_of(RECIPE)
    old = used.with_name("tiny-0123456789")
    for folder in (used, old, used.with_name("something-else")):
        (folder / "bin").mkdir(parents=True)
        (folder / "bin" / "python").write_bytes(b"#!/bin/sh\n" * 100)
        (folder / "bin" / "python").chmod(0o755)
        (folder / "ggufkit.json").write_text("{}")
    found = environments.kept([RECIPE])
    assert {it.folder: it.ready for it in found} == {used: True, old: False}
    assert {it.recipe for it in found} == {"tiny"}
    assert all(it.bytes >= 1000 for it in found)
    stale = next(it for it in found if not it.ready)
    with locked(old), pytest.raises(OutputError, match="is being written"):
        environments.remove(stale)
    environments.remove(stale)
    assert not old.exists()
    assert [it.folder for it in environments.kept([RECIPE])] == [used]
