"""Models that are wrong in one way, given to the commands: refused, or told of in one line when llama.cpp dies."""

import subprocess
import sys
from pathlib import Path

import one_fault
import pytest
import tiny_model

from ggufkit.errors import LlamaCppError
from ggufkit.inference.engine import Engine

pytestmark = pytest.mark.engine

GGUFKIT = [sys.executable, "-c", "from ggufkit.cli import main; main()"]


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> one_fault.Model:
    return one_fault.Model.read(tiny_model.write(tmp_path_factory.mktemp("good") / "model.gguf"))


def broken(good: one_fault.Model, path: Path, name: str) -> Path:
    model = good.copy()
    one_fault.faults_of(model)[name](model)
    return model.write(path)


def ggufkit(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*GGUFKIT, *arguments], capture_output=True, text=True, timeout=120, check=False, stdin=subprocess.DEVNULL
    )


@pytest.mark.parametrize("command", ["chat", "generate"])
def test_a_death_of_llama_cpp_is_one_line_and_exit_code_6(good: one_fault.Model, tmp_path: Path, command: str):
    # Read as a SentencePiece vocabulary, it has no tokens for bytes: cutting up a text throws what nobody catches.
    path = broken(good, tmp_path / "m.gguf", "tokenizer llama instead")
    done = ggufkit(command, path, "Hello é 犬", "-n", "2", "-t", "1")
    assert done.returncode == 6, done.stderr
    [line, hint] = [line for line in done.stderr.splitlines() if line]
    assert line == f"error: llama.cpp stopped (SIGABRT: unordered_map::at) on {path}"
    assert hint == "hint: ggufkit check tells what is wrong with a model"


@pytest.mark.parametrize(
    "name", ["token twice", "matrix of type I32", "norm of type F16", "matrix gone", "merges gone"]
)
@pytest.mark.parametrize("command", ["generate", "quantize"])
def test_what_cannot_be_run_is_refused_in_one_line(good: one_fault.Model, tmp_path: Path, command: str, name: str):
    path, output = broken(good, tmp_path / "m.gguf", name), tmp_path / "out.gguf"
    arguments = {
        "generate": ("generate", path, "Hello", "-n", "2"),
        "quantize": ("quantize", "Q4_0", path, "-o", output),
    }
    done = ggufkit(*arguments[command], "-t", "1")
    assert done.returncode == 3, done.stderr
    assert done.stderr.startswith("error: ")
    assert len([line for line in done.stderr.splitlines() if line and not line.startswith("hint: ")]) == 1
    assert not output.exists()


def test_an_embedding_without_dimensions_is_shown_and_judged(good: one_fault.Model, tmp_path: Path):
    path = broken(good, tmp_path / "m.gguf", "embedding a scalar")
    assert ggufkit("inspect", path).returncode == 0
    done = ggufkit("check", path)
    assert done.returncode == 3, done.stderr
    assert "'token_embd.weight' has wrong shape" in done.stdout


def test_the_python_api_lives_on_when_llama_cpp_would_die(
    good: one_fault.Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.delenv("GGUFKIT_EXPENDABLE", raising=False)
    monkeypatch.setattr("ggufkit.inference.model_file.read_fit_parts", lambda path: [_header(path)])
    path = broken(good, tmp_path / "m.gguf", "token twice")
    with pytest.raises(LlamaCppError, match=r"llama.cpp stopped \(SIGABRT: .*GGML_ASSERT.*\) on .*m.gguf"):
        Engine.open(path)


def _header(path: Path):
    from ggufkit.gguf_file.reader import read_header

    return read_header(path)
