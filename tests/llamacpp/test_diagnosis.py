"""The doctor has an answer whatever is missing, and every problem comes with a command."""

from pathlib import Path

import pytest

from ggufkit.llamacpp import binding, devices, diagnosis, find, pin


@pytest.fixture
def bare(tmp_path, monkeypatch):
    """A machine on which nothing was set up."""
    monkeypatch.delenv(find.VARIABLE, raising=False)
    pin.pin()  # read while it is still found in the checkout
    monkeypatch.setattr(pin, "checkout", lambda: None)
    monkeypatch.setattr(diagnosis, "checkout", lambda: None)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setenv("GGUFKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(binding, "installed_version", lambda: None)


def test_bare_machine_gets_an_answer_and_commands(bare, monkeypatch):
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", "")
    found = diagnosis.diagnose()
    assert (found.usable, found.build, found.binding, found.compiler) == (False, None, None, None)
    needed = [problem.what for problem in found.problems if problem.needed]
    assert any("llama.cpp is not built" in what for what in needed)
    assert any("not installed" in what for what in needed)
    assert any("C++ compiler" in what for what in needed)
    assert all(problem.fix for problem in found.problems)


def test_looking_leaves_nothing_behind(bare, tmp_path):
    diagnosis.diagnose()
    assert not list(tmp_path.iterdir())


def test_build_that_does_not_load_is_a_problem_not_a_crash(bare, tmp_path, monkeypatch):
    (tmp_path / "llama-quantize").touch(0o755)
    (tmp_path / f"libllama{find.LIBRARY_SUFFIX}").write_bytes(b"no library")
    monkeypatch.setenv(find.VARIABLE, str(tmp_path))
    found = diagnosis.diagnose()
    assert found.build is not None
    assert found.build.folder == tmp_path
    assert any("does not load" in problem.what for problem in found.problems)


@pytest.mark.parametrize(
    ("extra", "in_checkout", "installed"),
    [
        ("", "/here/scripts/setup", "-m pip install 'ggufkit'"),
        ("hf", "/here/scripts/setup --test", "-m pip install 'ggufkit[hf]'"),
        ("cluster", "-m pip install --editable '/here[cluster]'", "-m pip install 'ggufkit[cluster]'"),
        ("refine", "-m pip install --editable '/here[refine]'", "-m pip install 'ggufkit[refine]'"),
    ],
)
def test_what_an_extra_lacks_is_installed_by_the_command(extra, in_checkout, installed, monkeypatch):
    lacks = (diagnosis.Package("thing", ">=1", None, extra),)
    for root, wanted in ((Path("/here"), in_checkout), (None, installed)):
        monkeypatch.setattr(diagnosis, "checkout", lambda root=root: root)
        (problem,) = diagnosis._package_problems(lacks)
        assert problem.fix.endswith(wanted)
        assert "thing missing (>=1)" in problem.what


@pytest.mark.parametrize(
    ("version", "wanted", "fine"),
    [
        ("0.19.0", ">=0.19,<0.20", True),
        ("0.20.1", ">=0.19,<0.20", False),
        ("2.13.0+cpu", ">=2.6", True),
        ("0.3.36", "==0.3.36", True),
        ("3.0rc1", ">=3", True),
        ("1.0", "", True),
    ],
)
def test_version_bounds(version, wanted, fine):
    assert diagnosis.satisfies(version, wanted) is fine


@pytest.mark.parametrize(
    ("said", "pinned", "same"),
    [
        ("0c1e57098", "0c1e57098", True),
        ("0c1e570-dirty", "0c1e57098", True),
        ("unknown", "0c1e57098", True),
        ("1234567", "0c1e57098", False),
    ],
)
def test_commits_are_compared_by_their_common_part(said, pinned, same):
    assert diagnosis._same_commit(said, pinned) is same


def test_features_are_the_ones_that_are_on():
    text = "CPU : SSE3 = 1 | AVX512 = 0 | AVX2 = 1 | CUDA : ARCHS = 900 | "
    assert devices.features(text) == ("SSE3", "AVX2", "ARCHS=900")


@pytest.mark.engine
def test_real_build_tells_its_version_features_and_a_cpu():
    answer = devices.ask(find.find())
    assert diagnosis._same_commit(answer.commit, pin.pin().commit)
    assert answer.features
    assert [device for device in answer.devices if device.kind == "cpu" and device.memory_total > 0]
