"""`ggufkit tune` shows what it measured, keeps a profile where chat finds it, and refuses what makes no sense."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import tiny_model

pytestmark = pytest.mark.engine

GGUFKIT = [sys.executable, "-c", "from ggufkit.cli import main; main()"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model.saying(tmp_path_factory.mktemp("tune") / "model.gguf", "Hi")


def ggufkit(cache: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "GGUFKIT_CACHE": str(cache)}
    return subprocess.run(
        [*GGUFKIT, *arguments], capture_output=True, text=True, timeout=600, check=False, env=environment
    )


@pytest.mark.slow
def test_a_profile_is_measured_kept_and_used(model: Path, tmp_path: Path) -> None:
    done = ggufkit(tmp_path, "tune", model, "--seconds", "5", "--json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["schema_version"] == 1
    assert document["profile"] == str(next((tmp_path / "profiles").iterdir()))
    speeds = [speed for stage in document["stages"] for trial in stage["trials"] for speed in trial["speeds"]]
    assert all(speed > 0 for speed in speeds)
    # What is kept was faster by more than the noise; without that it is the default.
    assert not document["settings"] or document["generating"]["is_faster"] or document["reading"]["is_faster"]
    # An odd setting tells that chat uses the profile, unless told otherwise.
    kept = Path(document["profile"])
    content = json.loads(kept.read_text())
    kept.write_text(json.dumps({**content, "settings": {"micro_batch_size": 96}}))
    odd = re.compile(r"n_ubatch\s*=\s*96\b")
    assert odd.search(ggufkit(tmp_path, "chat", model, "hello", "--verbose").stderr)
    without = ggufkit(tmp_path, "chat", model, "hello", "--verbose", "--profile", "none")
    assert not odd.search(without.stderr)
    # One that makes no sense is passed over, but where it is named.
    kept.write_text(json.dumps({**content, "settings": {"flash_attention": "off", "cache_type_v": "q4_0"}}))
    assert ggufkit(tmp_path, "chat", model, "hello").stdout == "Hi\n"
    assert ggufkit(tmp_path, "chat", model, "hello", "--profile", kept).returncode == 3


@pytest.mark.slow
def test_people_see_a_table_a_plot_and_a_verdict(model: Path, tmp_path: Path) -> None:
    own = tmp_path / "own.json"
    done = ggufkit(tmp_path, "tune", model, "--seconds", "3", "-o", own)
    assert done.returncode == 0, done.stderr
    assert "faster here:" in done.stdout or "the default settings are as fast as" in done.stdout
    assert f"profile: {own}" in done.stdout
    assert "\x1b" not in done.stdout + done.stderr
    assert ggufkit(tmp_path, "chat", model, "hello", "--profile", own).stdout == "Hi\n"
    assert not (tmp_path / "profiles").exists()


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["missing.gguf"], 3, "no such file: missing.gguf"),
        (["MODEL", "--cache-types", "q9_9"], 2, "q9_9"),
        (["MODEL", "--seconds", "0"], 2, "seconds"),
        (["MODEL", "-o", "/nowhere/profile.json"], 5, "folder does not exist"),
        (["MODEL", "-o", "MODEL"], 2, "same file"),
    ],
)
def test_wrong_values_are_refused(model: Path, tmp_path: Path, arguments: list[str], status: int, message: str) -> None:
    done = ggufkit(tmp_path, "tune", *[str(model) if word == "MODEL" else word for word in arguments])
    assert done.returncode == status
    assert message in done.stderr
    assert "Traceback" not in done.stderr
