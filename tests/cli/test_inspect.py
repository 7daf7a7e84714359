"""`ggufkit inspect`: what it says of files, folders and models on the hub, and what it costs."""

import json
import os
import resource
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hub_server
import pytest
import raw_gguf

import ggufkit

DEMO = Path(ggufkit.__file__).parent / "demo_model"


def inspect(*arguments: object, **environment: str) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "ggufkit", "inspect", *map(str, arguments), "--json"],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("inspect") / "demo-F16.gguf"
    ggufkit.convert(DEMO, path)
    return path


def test_a_file(demo: Path) -> None:
    facts = inspect(demo, "--tensors", "--metadata")
    assert (facts["architecture"], facts["file_type"], facts["context_length"]) == ("llama", "F16", 1024)
    assert facts["bits_per_weight"] == 8 * facts["tensor_bytes"] / facts["parameters"]
    assert sum(share["tensors"] for share in facts["types"]) == facts["tensor_count"] == len(facts["tensors"]) == 38
    assert sum(share["bytes"] for share in facts["types"]) == facts["tensor_bytes"]
    assert facts["bytes"] == demo.stat().st_size
    assert facts["vocabulary"]["tokens"] == 1536
    assert {token["role"]: token["text"] for token in facts["vocabulary"]["special"]}["eos"] == "<|im_end|>"
    assert facts["license"] == "mit"
    assert facts["template"]["characters"] > 100
    assert facts["metadata"]["tokenizer.ggml.tokens"] == {"array_of": "STRING", "length": 1536}


def test_a_folder_agrees_with_its_file(demo: Path) -> None:
    folder, file = inspect(DEMO), inspect(demo)
    for fact in ("parameters", "context_length", "license"):
        assert folder[fact] == file[fact], fact
    assert folder["template"]["sha256"] == file["template"]["sha256"]
    assert folder["kind"] == "checkpoint"


def test_a_model_on_the_hub_by_its_headers(demo: Path, tmp_path: Path) -> None:
    repository = tmp_path / "root" / "someone" / "demo-GGUF"
    repository.mkdir(parents=True)
    for name in ("demo-F16.gguf", "demo-Q8_0.gguf"):
        shutil.copy(demo, repository / name)
        with (repository / name).open("ab") as file:
            file.truncate(demo.stat().st_size + (200 << 20))  # weights that are not to be fetched
    with hub_server.serving(tmp_path / "root") as hub:
        own = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home")}
        facts = inspect("someone/demo-GGUF:q8_0", **own)
        assert facts["parameters"] == inspect(demo)["parameters"]
        assert hub.sent < 10 << 20


def test_importance_matrix_and_odd_values_are_told(tmp_path: Path) -> None:
    entries = [
        raw_gguf.NAME,
        raw_gguf.entry("quantize.imatrix.file", raw_gguf.STRING, raw_gguf.string("m.imatrix")),
        raw_gguf.entry("quantize.imatrix.dataset", raw_gguf.STRING, raw_gguf.string("wiki.txt")),
        raw_gguf.entry("quantize.imatrix.chunks_count", raw_gguf.UINT32, struct.pack("<I", 100)),
        raw_gguf.entry("general.file_type", raw_gguf.UINT32, struct.pack("<I", 15)),
        raw_gguf.entry("general.name", raw_gguf.STRING, raw_gguf.string("evil\x1b[2Jname")),
        raw_gguf.entry("tokenizer.ggml.model", raw_gguf.STRING, raw_gguf.string("gpt2")),
        raw_gguf.array("tokenizer.ggml.tokens", raw_gguf.STRING, 2, raw_gguf.string("a") + raw_gguf.string("b")),
        raw_gguf.entry("tokenizer.ggml.bos_token_id", raw_gguf.UINT32, struct.pack("<I", 7)),
    ]
    path = tmp_path / "odd.gguf"
    tensor = raw_gguf.tensor("token_embd.weight", (4, 3), raw_gguf.F32, 0)
    path.write_bytes(raw_gguf.file(entries, [tensor], bytes(48)))
    facts = inspect(path)
    assert facts["imatrix"] == {"file": "m.imatrix", "dataset": "wiki.txt", "entries": None, "chunks": 100}
    assert [warning.split(",")[0] for warning in facts["warnings"]] == [
        "general.file_type says Q4_K_M",
        "the bos token is 7",
        "2 tokens",
        "no chat template: programs will have to guess how conversations are written",
    ]
    shown = subprocess.run(
        [sys.executable, "-m", "ggufkit", "inspect", str(path)], capture_output=True, text=True, check=True
    )
    assert "\x1b" not in shown.stdout


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's own figure of the peak memory is Linux's")
def test_a_large_vocabulary_is_cheap(tmp_path: Path, figure: Callable[[str, str], None]) -> None:
    """262,144 tokens and 500,000 merges: below 200 MB, and below a second of this process's time."""
    tokens = b"".join(raw_gguf.string(f"token{n}é") for n in range(262_144))
    merges = b"".join(raw_gguf.string(f"left{n} right{n}") for n in range(500_000))
    path = tmp_path / "large.gguf"
    path.write_bytes(
        raw_gguf.file(
            [
                raw_gguf.NAME,
                raw_gguf.entry("tokenizer.ggml.model", raw_gguf.STRING, raw_gguf.string("gpt2")),
                raw_gguf.array("tokenizer.ggml.tokens", raw_gguf.STRING, 262_144, tokens),
                raw_gguf.array("tokenizer.ggml.merges", raw_gguf.STRING, 500_000, merges),
                raw_gguf.entry("tokenizer.ggml.eos_token_id", raw_gguf.UINT32, struct.pack("<I", 262_143)),
            ],
            [raw_gguf.tensor("output_norm.weight", (4,), raw_gguf.F32, 0)],
            bytes(16),
        )
    )
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    code = (
        "import sys; sys.argv = ['ggufkit', 'inspect', sys.argv[1], '--json']\n"
        "from ggufkit.cli import main\n"
        "try: main()\n"
        "finally: print(open('/proc/self/status').read().split('VmHWM:')[1].split()[0], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    kilobytes = int(done.stderr.split()[-1])
    figure("inspect: 262,144 tokens and 500,000 merges", f"{seconds:.2f} s of CPU, {kilobytes / 1000:.0f} MB")
    facts = json.loads(done.stdout)["vocabulary"]
    assert (facts["tokens"], facts["merges"]) == (262_144, 500_000)
    assert facts["special"][0]["text"] == "token262143é"
    assert kilobytes < 200_000
    assert seconds < 5, "five times what it should be: a machine may be slow, but not that slow"


def test_the_recipe_of_a_model_goes_into_quantize(tmp_path: Path, demo: Path) -> None:
    def run(*arguments: object) -> str:
        command = [sys.executable, "-m", "ggufkit", *map(str, arguments)]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    assert inspect(demo, "--recipe")["tensors"]["token_embd.weight"] == "F16"
    recipe, preset, again = tmp_path / "a.recipe", tmp_path / "preset.gguf", tmp_path / "again.gguf"
    run("quantize", "Q4_K_M", demo, "-o", preset, "-q")
    recipe.write_text(run("inspect", "--recipe", preset))
    run("quantize", "--recipe", recipe, DEMO, "-o", again, "-q")  # a checkpoint on the way
    assert again.read_bytes() == preset.read_bytes()
    assert run("quantize", "--recipe", preset, demo, "-q", "--dry-run").strip() == str(
        demo.with_name("demo-Q4_K_M-recipe.gguf")
    )
