"""`ggufkit pull`, and models named as owner/repo:QUANT, as a person meets them: exit codes, words, interruptions."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import hub_faults
import hub_server
import pytest
from hub_server import Fault, Hub

import ggufkit

TOKEN = "hf_a_secret"
DEMO = Path(ggufkit.__file__).parent / "demo_model"
SIZE = 6 << 20


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    root = tmp_path_factory.mktemp("root")
    shutil.copytree(DEMO, root / "someone" / "demo")
    gguf = root / "someone" / "demo-GGUF"
    gguf.mkdir()
    for name in ("demo-Q4_K_M.gguf", "demo-Q8_0.gguf", "mmproj-demo-F16.gguf"):
        (gguf / name).write_bytes(os.urandom(SIZE))
    (root / "someone" / "gated").mkdir()
    with hub_server.serving(root, gated={"someone/gated"}) as hub:
        yield hub


def environment(hub: Hub, home: Path, **more: str) -> dict[str, str]:
    own = {"HF_ENDPOINT": hub.url, "HF_HOME": str(home), "HF_TOKEN": TOKEN, "XDG_DATA_HOME": str(home / "data")}
    return {**os.environ, **own, **more}


def run(hub: Hub, home: Path, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-m", "ggufkit", *arguments],
        env=environment(hub, home, **more),
        cwd=home,
        capture_output=True,
        text=True,
        check=False,
    )
    assert TOKEN not in done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done


def test_a_checkpoint_and_back(served: Hub, tmp_path: Path) -> None:
    pulled = run(served, tmp_path, "pull", "someone/demo")
    folder = Path(pulled.stdout.strip())
    assert pulled.returncode == 0
    assert {path.name for path in folder.iterdir()} >= {"config.json", "model.safetensors", "tokenizer.json"}
    asked = len(served.requests)
    converted = run(served, tmp_path, "convert", "someone/demo", "-q", HF_HUB_OFFLINE="1")
    assert converted.stdout == "demo-F16.gguf\n", converted.stderr
    assert len(served.requests) == asked, "a model that is here needs no network"


def test_a_local_folder_of_that_name_wins(served: Hub, tmp_path: Path) -> None:
    shutil.copytree(DEMO, tmp_path / "someone" / "demo")
    asked = len(served.requests)
    for name in ("someone/demo", "./someone/demo"):
        assert json.loads(run(served, tmp_path, "inspect", name, "--json").stdout)["path"] == name.removeprefix("./")
    assert len(served.requests) == asked


def test_local_folder_and_patterns(served: Hub, tmp_path: Path) -> None:
    here = tmp_path / "models"
    done = run(served, tmp_path, "pull", "hf://someone/demo-GGUF:q8_0", "--local-dir", str(here), "--mmproj", "--json")
    document = json.loads(done.stdout)
    assert document["path"] == str(here / "demo-Q8_0.gguf")
    assert document["mmproj"] == str(here / "mmproj-demo-F16.gguf")
    assert document["bytes_fetched"] == 2 * SIZE
    assert sorted(path.name for path in here.iterdir()) == ["demo-Q8_0.gguf", "mmproj-demo-F16.gguf"]
    listed = json.loads(run(served, tmp_path, "list", "--json").stdout)["models"]
    assert ("demo-Q8_0.gguf", "ggufkit") in {(model["name"], model["where"]) for model in listed}
    planned = run(
        served, tmp_path, "pull", "someone/demo", "--include", "*.json", "--exclude", "token*", "--dry-run", "-q"
    )
    assert "config.json" in planned.stdout.splitlines()
    assert not any(line.startswith("token") or line.endswith(".safetensors") for line in planned.stdout.splitlines())


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["pull", "someone/missing"], 3, "no repository someone/missing"),
        (["pull", "someone/demo-GGUF:Q2_K"], 3, "no quantization 'Q2_K': Q4_K_M (6.3 MB), Q8_0 (6.3 MB)"),
        (["pull", "someone/demo@nowhere"], 3, "no revision 'nowhere'"),
        (["pull", "nothing.gguf"], 2, "no name of a model on the hub"),
        (["pull", "someone/demo", "--include", "*.xyz"], 2, "leave no file"),
        (["inspect", "some/where"], 3, "no repository some/where"),
        (["convert", "someone/demo-GGUF"], 3, "no config.json"),
        (["convert", "someone/demo-GGUF:Q8_0"], 2, "a checkpoint is needed"),
        (["chat", "someone/demo", "hello"], 3, "holds a checkpoint and no GGUF file"),
    ],
)
def test_refused(served: Hub, tmp_path: Path, arguments: list[str], code: int, message: str) -> None:
    done = run(served, tmp_path, *arguments)
    assert (done.returncode, message in done.stderr) == (code, True), done.stderr
    assert "hint: " in done.stderr


def test_offline_and_gated(served: Hub, tmp_path: Path) -> None:
    offline = run(served, tmp_path, "pull", "someone/demo", HF_HUB_OFFLINE="1")
    assert (offline.returncode, "HF_HUB_OFFLINE" in offline.stderr) == (3, True)
    gated = run(served, tmp_path, "pull", "someone/gated", HF_TOKEN="")
    assert (gated.returncode, "is gated" in gated.stderr) == (3, True)


@pytest.mark.fault
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -9)])
def test_interrupted_and_gone_on_with(served: Hub, tmp_path: Path, number: int, code: int) -> None:
    stall = hub_faults.Stall()
    served.faults = [Fault(r"^content GET .*Q4_K_M", stall, 1)]
    process = subprocess.Popen(
        [sys.executable, "-m", "ggufkit", "pull", "someone/demo-GGUF:Q4_K_M", "-q"],
        env=environment(served, tmp_path),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert stall.reached.wait(60)
    parts: list[Path] = []
    while not parts or parts[0].stat().st_size < SIZE // 4:  # the half is sent; wait until some of it is written
        time.sleep(0.01)
        parts = list(tmp_path.rglob("*.ggufkit-pull"))
        assert process.poll() is None
    process.send_signal(number)
    try:
        _, errors = process.communicate(timeout=60)
    finally:
        stall.go.set()
    assert process.returncode == code, errors
    assert b"Traceback" not in errors
    cache = tmp_path / "hub"
    assert [path for path in cache.rglob("*") if path.is_file() and not path.name.startswith(".")] == []
    before = served.sent
    assert run(served, tmp_path, "pull", "someone/demo-GGUF:Q4_K_M", "-q").returncode == 0
    assert served.sent - before < SIZE
    assert list(cache.rglob("*.ggufkit-pull")) == []
