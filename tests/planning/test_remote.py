"""Planning for a repository on the hub: a server on this machine stands for it, and counts what it sends."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hollow_checkpoint
import hub_server
import library_fixtures
import pytest
import tiny_gguf
from hub_server import COMMIT, Hub

pytestmark = [pytest.mark.engine]

TOKEN = "hf_a_secret"


def run(hub: Hub, home: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run `ggufkit plan` with that hub and a cache of its own; huggingface_hub reads its settings when imported."""
    return subprocess.run(
        [sys.executable, "-m", "ggufkit", "plan", *arguments, "--no-speed"],
        env={**os.environ, "HF_ENDPOINT": hub.url, "HF_HOME": str(home), "HF_TOKEN": TOKEN, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def document(ran: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout)


def test_a_checkpoint_in_shards(tmp_path: Path, figure: Callable[[str, str], None]) -> None:
    folder = hollow_checkpoint.write(tmp_path / "hub" / "someone" / "big-model", shards=3)
    weights = hollow_checkpoint.weight_bytes(folder)
    with hub_server.serving(tmp_path / "hub") as hub:
        planned = document(run(hub, tmp_path / "home", "someone/big-model", "--json"))
        assert planned["origin"] == "remote checkpoint"
        assert hub.sent < weights / 100
        figure("plan: fetched of a remote checkpoint", f"{hub.sent:,} of {weights:,} bytes ({hub.sent / weights:.3%})")
        assert planned["download_bytes"] > weights
        # The token is for the hub, not for the host of the large files, nor for our output.
        assert hub.tokens["hub"] >= {f"Bearer {TOKEN}"}
        assert hub.tokens["content"] == {None}
        # It is what a download would have led to.
        local = document(run(hub, tmp_path / "home", str(folder), "--json"))
        assert [each["bytes"] for each in planned["types"]] == [each["bytes"] for each in local["types"]]
        assert planned["recommended"]["command"].startswith("hf download someone/big-model --local-dir big-model && ")
        # Small files are kept in Hugging Face's cache; a commit that is known is not asked for again.
        sent = hub.sent
        again = run(hub, tmp_path / "home", f"someone/big-model@{COMMIT}", "-q", "--types", "Q4_K_M")
        assert again.stdout == "Q4_K_M\n"
        assert hub.sent - sent < sent
        assert TOKEN not in again.stdout + again.stderr


def test_gguf_files(tmp_path: Path) -> None:
    folder = tmp_path / "hub" / "someone" / "model-GGUF"
    folder.mkdir(parents=True)
    source = tiny_gguf.write_model(folder / "model-BF16.gguf", hidden=512)
    tiny_gguf.by_hand(source, "Q4_K_M", folder / "model-Q4_K_M.gguf")
    (folder / "mmproj-F16.gguf").write_bytes(b"GGUF, but an image encoder")
    with hub_server.serving(tmp_path / "hub") as hub:
        planned = document(run(hub, tmp_path / "home", "someone/model-GGUF", "--json", "--types", "Q4_K_M,Q8_0"))
        assert planned["origin"] == "remote gguf"
        assert [each["path"] for each in planned["ready"]] == ["model-Q4_K_M.gguf", "model-BF16.gguf"]
        made = next(each["bytes"] for each in planned["types"] if each["type"] == "Q4_K_M")
        assert made == (folder / "model-Q4_K_M.gguf").stat().st_size
        source.unlink()
        planned = document(run(hub, tmp_path / "home", "someone/model-GGUF", "--json", "--types", "Q4_K_M,Q8_0"))
        assert [each["type"] for each in planned["types"]] == ["as it is"]
        assert planned["recommended"]["command"].startswith("hf download someone/model-GGUF model-Q4_K_M.gguf")


def test_what_goes_wrong_is_told(tmp_path: Path) -> None:
    root = tmp_path / "hub"
    hollow_checkpoint.write(root / "someone" / "gated", layers=1)
    (root / "someone" / "empty").mkdir(parents=True)
    (root / "someone" / "bins").mkdir(parents=True)
    (root / "someone" / "bins" / "pytorch_model.bin").write_bytes(b"x")
    with hub_server.serving(root, gated={"someone/gated"}) as hub:
        for arguments, environment, message in (
            (["someone/gated"], {"HF_TOKEN": ""}, "is gated"),
            (["someone/missing"], {}, "there is no repository someone/missing"),
            (["someone/gated@elsewhere"], {}, "has no revision 'elsewhere'"),
            (["someone/empty"], {}, "neither safetensors nor GGUF"),
            (["someone/bins"], {}, "as .bin only"),
            (["someone/gated"], {"HF_HUB_OFFLINE": "1"}, "HF_HUB_OFFLINE"),
            (["someone/gated"], {"HF_ENDPOINT": "http://127.0.0.1:9"}, "cannot reach http://127.0.0.1:9"),
        ):
            ran = run(hub, tmp_path / "home", *arguments, **environment)
            assert ran.returncode == 3, (arguments, ran.stderr)
            assert message in ran.stderr
            assert "hint: " in ran.stderr
            assert "Traceback" not in ran.stderr
            assert TOKEN not in ran.stderr


def test_a_server_that_sends_everything_is_cut_short(tmp_path: Path) -> None:
    folder = hollow_checkpoint.write(tmp_path / "hub" / "someone" / "model", layers=2)
    with hub_server.serving(tmp_path / "hub", ranges=False) as hub:
        document(run(hub, tmp_path / "home", "someone/model", "--json", "--types", "Q8_0"))
    assert hollow_checkpoint.weight_bytes(folder) > (64 << 20)


def test_offline_a_cached_snapshot_serves(tmp_path: Path) -> None:
    from huggingface_hub.constants import REPO_ID_SEPARATOR

    cache = tmp_path / "home" / "hub" / REPO_ID_SEPARATOR.join(["models", "someone", "model"])
    hollow_checkpoint.write(cache / "snapshots" / COMMIT, layers=2)
    (cache / "refs").mkdir()
    (cache / "refs" / "main").write_text(COMMIT)
    with hub_server.serving(tmp_path) as hub:
        ran = run(hub, tmp_path / "home", "someone/model", "-q", "--types", "Q8_0", HF_HUB_OFFLINE="1")
        assert ran.stdout == "Q8_0\n", ran.stderr
        assert hub.requests == []


def test_a_checkpoint_that_others_quantized(tmp_path: Path) -> None:
    """The shapes of its weights stand in its data: so much is fetched, and no more."""
    folder = tmp_path / "hub" / "someone" / "quantized"
    shutil.copytree(library_fixtures.DATA / "bitsandbytes-nf4", folder)
    with hub_server.serving(tmp_path / "hub") as hub:
        planned = document(run(hub, tmp_path / "home", "someone/quantized", "--json"))
        local = document(run(hub, tmp_path / "home", str(folder), "--json"))
        assert [each["bytes"] for each in planned["types"]] == [each["bytes"] for each in local["types"]]
