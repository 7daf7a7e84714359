"""The binding is loaded on top of our build, quietly, and without changing the process around it."""

import os
import subprocess
import sys

import pytest

from ggufkit.errors import MissingDependencyError
from ggufkit.llamacpp import binding, pin


@pytest.fixture
def unloaded(monkeypatch):
    monkeypatch.setattr(binding, "_module", None)


def test_absent_binding(unloaded, monkeypatch):
    monkeypatch.setattr(binding, "installed_version", lambda: None)
    with pytest.raises(MissingDependencyError, match="not installed") as caught:
        binding.load()
    assert caught.value.hint == "ggufkit setup"


def test_binding_of_another_version_names_both(unloaded, monkeypatch):
    monkeypatch.setattr(binding, "installed_version", lambda: "0.2.0")
    with pytest.raises(MissingDependencyError, match=f"0.2.0.*{pin.pin().version}"):
        binding.load()


@pytest.mark.parametrize("version", ["wanted", "0.2.0", None])
def test_the_installed_version_is_what_lies_beside_the_package(version, tmp_path, monkeypatch):
    version = pin.pin().version if version == "wanted" else version
    (tmp_path / "llama_cpp").mkdir()
    (tmp_path / "llama_cpp/__init__.py").touch()
    if version:
        about = tmp_path / f"llama_cpp_python-{version}.dist-info"
        about.mkdir()
        (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: llama_cpp_python\nVersion: {version}\n")
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    assert binding.installed_version() == version


def test_log_pieces_become_lines_and_the_oldest_go(monkeypatch):
    monkeypatch.setattr(binding, "_unfinished", "")
    binding._log.clear()
    for piece in (b"load", b"ing ", b"model\nnext\n", b"dots..", None, b"\xff"):
        binding._take(2, piece, None)
    assert binding.log_lines() == ["loading model", "next", "dots..\ufffd"]
    assert binding.log_tail(2) == "next\ndots..\ufffd"
    for number in range(2000):
        binding._take(2, f"\nline {number}".encode(), None)
    assert len(binding.log_lines()) <= 1001
    assert binding.log_tail(1) == "line 1999"
    binding._log.clear()


def test_importing_ggufkit_changes_neither_path_nor_environment():
    code = """
import os, sys
path, environment = list(sys.path), dict(os.environ)
import ggufkit, ggufkit.cli, ggufkit.llamacpp.binding, ggufkit.llamacpp.setup, ggufkit.llamacpp.diagnosis
assert sys.path == path and dict(os.environ) == environment
assert not {"llama_cpp", "torch", "transformers"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.engine
def test_load_restores_the_environment_and_returns_one_module(monkeypatch):
    monkeypatch.setenv("LLAMA_CPP_LIB_PATH", "/somewhere/else")
    module = binding.load()
    assert os.environ["LLAMA_CPP_LIB_PATH"] == "/somewhere/else"
    assert binding.load() is module
    assert module.__version__ == pin.pin().version


@pytest.mark.engine
def test_failing_load_is_silent_and_its_reason_is_in_the_log(tmp_path, capfd):
    module = binding.load()
    file = tmp_path / "broken.gguf"
    file.write_bytes(b"this is no model")
    with pytest.raises(ValueError, match="Failed to load"):
        module.Llama(str(file), verbose=False)
    assert capfd.readouterr() == ("", "")
    assert "magic" in binding.log_tail()


@pytest.mark.engine
def test_what_others_print_while_a_model_loads_is_not_swallowed(capfd):
    module = binding.load()
    with module._utils.suppress_stdout_stderr(disable=False):
        os.write(1, b"still here")
    assert capfd.readouterr().out == "still here"
