"""`ggufkit setup` passes the options on and prints steps for people and for programs."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ggufkit.cli._app import app
from ggufkit.llamacpp import setup
from ggufkit.llamacpp.setup import SetupResult, Step


@pytest.fixture
def asked(monkeypatch):
    """Record the options instead of building."""
    seen = []

    def set_up(options, *, progress, on_step):
        seen.append(options)
        steps = (Step("source", "there", "", 0.0), Step("llama.cpp", "done", "compiled", 61.26))
        for step in steps:
            on_step(step)
        return SetupResult(steps, "1.2.3", "abcdef0", Path("/place"), 61.3)

    monkeypatch.setattr(setup, "set_up", set_up)
    return seen


def test_options_reach_the_build(asked):
    result = CliRunner().invoke(
        app, ["setup", "--cuda", "--blas", "--cmake-args", "-DA=1 -DB=2", "--cmake-args=-DC=3", "-j", "2", "--force"]
    )
    assert result.exit_code == 0
    (options,) = asked
    assert options.build.backends == ("cuda", "blas")
    assert options.build.cmake_args == ("-DA=1", "-DB=2", "-DC=3")
    assert (options.build.jobs, options.force, options.dry_run) == (2, True, False)


def test_people_get_steps_with_seconds_on_stderr(asked):
    result = CliRunner().invoke(app, ["setup"])
    assert result.stdout == ""
    assert "already there" in result.stderr
    assert "61.3 s" in result.stderr


def test_json_is_one_document(asked):
    document = json.loads(CliRunner().invoke(app, ["setup", "--json"]).stdout)
    assert document["schema_version"] == 1
    assert document["steps"][1] == {"name": "llama.cpp", "state": "done", "detail": "compiled", "seconds": 61.26}


def test_quiet_prints_the_folder_only(asked):
    result = CliRunner().invoke(app, ["setup", "-q"])
    assert (result.stdout, result.stderr) == ("/place\n", "")


def test_clean_says_what_goes(monkeypatch):
    monkeypatch.setattr(setup, "clean", lambda **_: ([Path("/cache")], 2_000_000))
    result = CliRunner().invoke(app, ["setup", "--clean", "--dry-run"])
    assert "would remove /cache" in result.stderr
    assert "2.00 MB" in result.stderr
