"""`ggufkit convert` and the tokenizer: --pre, --tokenizer-from, --vocab-only."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import handmade_checkpoint
import pytest
from vocabulary_folders import llama_vocabulary

from ggufkit.gguf_file.reader import read_header


def convert(*arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "ggufkit", "convert", *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    handmade_checkpoint.write(tmp_path / "model")
    return tmp_path


def test_a_named_pretokenizer_is_taken_as_it_is(folder: Path):
    done = convert("model", "--pre", "starcoder", "-o", "x.gguf", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert read_header(folder / "x.gguf").metadata["tokenizer.ggml.pre"] == "starcoder"


def test_a_name_that_llama_cpp_does_not_have(folder: Path):
    done = convert("model", "--pre", "star-coder", cwd=folder)
    assert done.returncode == 2
    assert "llama.cpp has no pre-tokenizer 'star-coder'" in done.stderr
    assert "starcoder" in done.stderr
    assert not list(folder.glob("*.gguf"))


def test_the_tokenizer_of_another_folder(folder: Path):
    (folder / "elsewhere").mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json"):
        if (folder / "model" / name).exists():
            shutil.move(folder / "model" / name, folder / "elsewhere" / name)
    assert convert("model", cwd=folder).returncode == 3
    done = convert("model", "--tokenizer-from", "elsewhere", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert read_header(folder / "model-F16.gguf").metadata["tokenizer.ggml.tokens"]
    assert convert("model", "--tokenizer-from", "nowhere", cwd=folder).returncode == 3


@pytest.mark.engine
def test_the_vocabulary_alone(folder: Path):
    convert("model", cwd=folder)
    for path in (folder / "model").glob("*.safetensors*"):
        path.unlink()
    done = convert("model", "--vocab-only", "--json", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["tensors"] == 0
    whole, alone = read_header(folder / "model-F16.gguf"), read_header(folder / "model-VOCAB.gguf")
    assert not alone.tensors
    about = ("tokenizer.", "llama.")
    assert {k: v for k, v in alone.metadata.items() if k.startswith(about)} == {
        k: v for k, v in whole.metadata.items() if k.startswith(about)
    }
    with llama_vocabulary(folder / "model-VOCAB.gguf") as vocabulary:
        assert vocabulary.encode("hello")


def test_the_vocabulary_of_a_folder_whose_config_tells_little(folder: Path):
    (folder / "model" / "config.json").write_text('{"architectures": ["LlamaForCausalLM"]}', encoding="utf-8")
    done = convert("model", "--vocab-only", "-o", "v.gguf", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "the model's sizes are left out" in done.stderr
    assert read_header(folder / "v.gguf").metadata["tokenizer.ggml.tokens"]
    assert convert("model", "--vocab-only", "--dry-run", cwd=folder).returncode == 2
