"""`ggufkit doctor` prints everything with nothing built, and its exit code says whether ggufkit is usable."""

import json

import pytest
from typer.testing import CliRunner

from ggufkit.cli._app import app
from ggufkit.llamacpp import binding, find, pin


@pytest.fixture
def bare(tmp_path, monkeypatch):
    monkeypatch.delenv(find.VARIABLE, raising=False)
    pin.pin()  # read while it is still found in the checkout
    monkeypatch.setattr(pin, "checkout", lambda: None)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    monkeypatch.setattr(binding, "installed_version", lambda: None)


def test_nothing_built(bare):
    result = CliRunner().invoke(app, ["doctor"])
    assert result.exit_code == 3
    assert "missing: llama.cpp is not built yet\n   fix: ggufkit setup" in result.stdout
    assert "not ready" in result.stdout


def test_nothing_built_as_json(bare):
    result = CliRunner().invoke(app, ["doctor", "--json"])
    assert result.exit_code == 3
    document = json.loads(result.stdout)
    assert (document["usable"], document["build"], document["pinned_version"]) == (False, None, pin.pin().version)
    assert document["machine"]["usable_cores"] >= 1
    assert all(problem["fix"] for problem in document["problems"])


@pytest.mark.engine
def test_everything_built():
    result = CliRunner().invoke(app, ["doctor", "--json"])
    document = json.loads(result.stdout)
    assert document["build"]["devices"]
    assert result.exit_code == 0, document["problems"]
