"""`ggufkit plan`: the table, the document, and its mistakes."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import hollow_checkpoint
import pytest
import tiny_gguf

from ggufkit.cli.plan import parse_size
from ggufkit.errors import UsageError

pytestmark = pytest.mark.engine


def run(*arguments: str | Path, **options: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "ggufkit", "plan", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, **options)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return hollow_checkpoint.write(tmp_path_factory.mktemp("plan") / "some-llama", layers=4)


def test_the_table_says_what_it_costs(checkpoint: Path) -> None:
    ran = run(checkpoint, "--no-speed", "--ram", "900MB")
    assert ran.returncode == 0, ran.stderr
    lines = {line.split()[0]: line.split() for line in ran.stdout.splitlines() if line.strip()}
    assert lines["Q4_K_M"][1:3] == ["147.20", "MB"]
    assert lines["Q4_K_M"][3].startswith("4.")
    assert "yes" in lines["Q4_K_M"]
    assert "needs an importance matrix" in ran.stdout
    assert f"  ggufkit quantize Q8_0 {checkpoint}" in ran.stdout
    assert "published for another model" in ran.stdout


def test_json_is_one_document(checkpoint: Path) -> None:
    ran = run(checkpoint, "--json", "--no-speed", "-c", "2048", "-ctk", "q8_0", "-ctv", "q8_0", "-fa", "on")
    document = json.loads(ran.stdout)
    assert document["schema_version"] == 1
    assert document["context_size"] == 2048
    [first, *_] = document["caches"]
    assert first["setting"]["cache_type_k"] == "q8_0"
    assert first["cache"] == 4 * 2 * 2048 * 512 * 34 // 32  # layers, keys and values, tokens, width, bytes per value
    names = [each["type"] for each in document["types"]]
    assert names.index("F32") < names.index("Q8_0") < names.index("Q2_K")
    assert {"type", "reason", "command"} <= document["recommended"].keys()
    row = document["types"][names.index("Q8_0")]
    assert row["memory"]["peak"] > row["bytes"]
    assert row["quality"]["measured"] is False


def test_quiet_prints_the_type_only(checkpoint: Path) -> None:
    assert run(checkpoint, "-q", "--no-speed").stdout == "Q8_0\n"


def test_an_own_measurement_replaces_the_prior(tmp_path: Path) -> None:
    source = tiny_gguf.write_model(tmp_path / "model-F16.gguf")
    model = json.loads(run(source, "--json", "--no-speed", "--types", "Q8_0").stdout)["model"]
    (tmp_path / "own.divergence.json").write_text(
        json.dumps({"kind": "divergence", "model": model, "results": [{"type": "Q8_0", "mean_kld": 0.0123}]})
    )
    ran = run(source, "--no-speed", "--types", "Q8_0,Q4_K_M")
    assert " 0.0123 " in ran.stdout
    assert "~0.0313" in ran.stdout
    assert "measured on this model" in ran.stdout


def test_fallbacks_are_noted(tmp_path: Path) -> None:
    source = tiny_gguf.write_model(tmp_path / "odd.gguf", feed_forward=288)
    assert "Q4_K -> Q5_0" in run(source, "--no-speed", "--types", "Q4_K_S").stdout


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["missing.gguf"], 3, "no such file"),
        (["model.gguf", "--ram", "much"], 2, "is no size"),
        (["model.gguf", "--types", "Q9_K"], 2, "unknown quantization type"),
        (["model.gguf", "-ctk", "q9"], 2, "q9"),
        (["other"], 3, "no spec of ours converts"),
    ],
)
def test_mistakes_are_one_line(tmp_path: Path, arguments: list[str], status: int, message: str) -> None:
    tiny_gguf.write_model(tmp_path / "model.gguf")
    hollow_checkpoint.write(tmp_path / "other", layers=1)
    config = json.loads((tmp_path / "other" / "config.json").read_text())
    config["architectures"] = ["Rwkv6ForCausalLM"]
    (tmp_path / "other" / "config.json").write_text(json.dumps(config))
    ran = run(*arguments, "--no-speed", cwd=tmp_path)
    assert ran.returncode == status
    assert message in ran.stderr
    assert "Traceback" not in ran.stderr


def test_without_llama_cpp_it_says_so(checkpoint: Path, tmp_path: Path) -> None:
    ran = run(checkpoint, "--no-speed", env={**os.environ, "GGUFKIT_LLAMA_CPP": str(tmp_path)})
    assert ran.returncode == 3
    assert "holds no llama.cpp build" in ran.stderr


@pytest.mark.parametrize(
    ("text", "size"), [("8", 8 * 10**9), ("8GB", 8 * 10**9), ("7.5GiB", 15 << 29), ("800M", 8 * 10**8), ("1t", 10**12)]
)
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text, "--ram") == size


def test_nonsense_is_no_size() -> None:
    with pytest.raises(UsageError, match="--ram"):
        parse_size("eight", "--ram")
