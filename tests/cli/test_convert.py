"""`ggufkit convert` as a user meets it: outputs, exit codes, one line and a hint."""

import json
import os
import subprocess
import sys
from pathlib import Path

import handmade_checkpoint
import pytest


def ggufkit(*arguments: object, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "ggufkit", *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, env={**os.environ, **environment})


def test_the_default_name_and_the_summary(tmp_path: Path) -> None:
    handmade_checkpoint.write(tmp_path / "my-model")
    done = ggufkit("convert", "my-model", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "my-model-F16.gguf").is_file()
    assert done.stdout.startswith("my-model-F16.gguf: llama, 21 tensors (16 F16, 5 F32), ")


def test_quiet_prints_the_path_and_json_prints_a_document(tmp_path: Path) -> None:
    handmade_checkpoint.write(tmp_path / "my-model")
    assert ggufkit("convert", "my-model", "--outtype", "BF16", "-q", cwd=tmp_path).stdout == "my-model-BF16.gguf\n"
    document = json.loads(ggufkit("convert", "my-model", "--json", "-o", "x.gguf", cwd=tmp_path).stdout)
    assert document["schema_version"] == 1
    assert document["bytes_after"] == (tmp_path / "x.gguf").stat().st_size
    assert document["converter"] == "native"


def test_a_dry_run_tells_all_and_writes_nothing(tmp_path: Path) -> None:
    handmade_checkpoint.write(tmp_path / "my-model")
    done = ggufkit("convert", "my-model", "--dry-run", "--json", cwd=tmp_path)
    document = json.loads(done.stdout)
    assert [path.name for path in tmp_path.iterdir()] == ["my-model"]
    ggufkit("convert", "my-model", cwd=tmp_path)
    assert document["bytes"] == (tmp_path / "my-model-F16.gguf").stat().st_size
    assert "nothing was written" in ggufkit("convert", "my-model", "--dry-run", cwd=tmp_path).stdout


@pytest.mark.parametrize(
    ("arguments", "code", "error", "hint"),
    [
        (["nowhere"], 3, "no such folder: nowhere", "config.json"),
        (["empty"], 3, "no config.json in empty", "folder that the model"),
        (["my-model", "-o", "my-model/model.safetensors"], 2, "same file", "-o"),
        (["my-model", "-o", "missing/x.gguf"], 5, "does not exist: missing", "mkdir -p missing"),
        (["my-model", "--outtype", "q4_k"], 2, "'q4_k' is none of f16", ""),
        (["unknown"], 3, "unknown architecture 'LlammaForCausalLM'; nearest known: LlamaForCausalLM", "--converter"),
        (["no-tokenizer"], 3, "no tokenizer in", ""),
        (["no-weights"], 3, "no weights", "download"),
    ],
)
def test_errors_are_one_line_a_hint_and_the_documented_code(
    tmp_path: Path, arguments: list[str], code: int, error: str, hint: str
) -> None:
    (tmp_path / "empty").mkdir()
    handmade_checkpoint.write(tmp_path / "my-model")
    handmade_checkpoint.write(tmp_path / "unknown", architectures=["LlammaForCausalLM"])
    (handmade_checkpoint.write(tmp_path / "no-tokenizer") / "tokenizer.json").unlink()
    (handmade_checkpoint.write(tmp_path / "no-weights") / "model.safetensors").unlink()
    before = sorted(path for path in tmp_path.rglob("*"))

    done = ggufkit("convert", *arguments, cwd=tmp_path)

    assert done.returncode == code
    assert error in done.stderr
    assert hint in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    assert sorted(path for path in tmp_path.rglob("*")) == before


def test_a_dry_run_refuses_what_the_run_would(tmp_path: Path) -> None:
    handmade_checkpoint.write(tmp_path / "my-model")
    assert ggufkit("convert", "my-model", "--dry-run", "-o", "my-model/config.json", cwd=tmp_path).returncode == 2
    assert ggufkit("convert", "my-model", "--dry-run", "-q", "-o", ".", cwd=tmp_path).stdout == "my-model-F16.gguf\n"


def test_a_reader_that_has_seen_enough_is_no_bug(tmp_path: Path) -> None:
    handmade_checkpoint.write(tmp_path / "my-model")
    command = f"{sys.executable} -m ggufkit convert my-model --dry-run --json | true; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True)
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("name", "content", "error"),
    [
        ("model.safetensors.index.json", '{"weight_map": {"a": "\\u001b[2J"}}', "cannot be: '\\x1b[2J'"),
    ],
)
def test_what_a_stranger_wrote_is_named_and_not_printed(tmp_path: Path, name: str, content: str, error: str) -> None:
    (handmade_checkpoint.write(tmp_path / "my-model") / name).write_text(content)
    done = ggufkit("convert", "my-model", cwd=tmp_path)
    assert done.returncode == 3
    assert error in done.stderr
    assert "\x1b" not in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["my-model"]


@pytest.mark.parametrize(
    ("name", "content", "warning"),
    [
        ("README.md", "---\nlanguage: {a: 1}\nlicense: {b: 2}\n---\n", "general.license would be {'b': 2}"),
        ("README.md", "---\nlicense: [\u001b[2J\n---\n", "README.md is malformed"),
        ("generation_config.json", '{"top_k": 1e400}', "general.sampling.top_k would be inf"),
    ],
)
def test_a_malformed_description_stops_no_conversion(tmp_path: Path, name: str, content: str, warning: str) -> None:
    (handmade_checkpoint.write(tmp_path / "my-model") / name).write_text(content)
    done = ggufkit("convert", "my-model", cwd=tmp_path)
    assert done.returncode == 0
    assert "warning: my-model" in done.stderr
    assert warning in done.stderr
    assert "\x1b" not in done.stderr
    assert (tmp_path / "my-model-F16.gguf").exists()


def test_a_snapshot_of_the_cache_is_links_into_another_folder(tmp_path: Path) -> None:
    """The layout of huggingface_hub: each file a symbolic link to a blob, which must not be overwritten either."""
    model = handmade_checkpoint.write(tmp_path / "plain")
    snapshot = tmp_path / "models--org--name" / "snapshots" / "0123abc"
    blobs = snapshot.parents[1] / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for index, path in enumerate(sorted(model.iterdir())):
        path.rename(blobs / str(index))
        (snapshot / path.name).symlink_to(Path("../../blobs") / str(index))
    assert ggufkit("convert", snapshot, "-o", "x.gguf", cwd=tmp_path).returncode == 0
    for blob in blobs.iterdir():
        assert ggufkit("convert", snapshot, "-o", blob, cwd=tmp_path).returncode == 2


def test_a_name_from_a_stranger_cannot_forge_output(tmp_path: Path) -> None:
    handmade_checkpoint.write(tmp_path / "model", architectures=["\x1b[2JEvil\nerror: all is well"])
    done = ggufkit("convert", "model", cwd=tmp_path)
    assert "\x1b" not in done.stderr
    assert len([line for line in done.stderr.splitlines() if line.startswith("error:")]) == 1


def test_debug_shows_the_traceback(tmp_path: Path) -> None:
    assert "Traceback" in ggufkit("convert", "nowhere", cwd=tmp_path, GGUFKIT_DEBUG="1").stderr


def test_an_unknown_architecture_is_named_even_where_llama_cpp_is_not_set_up(tmp_path: Path) -> None:
    handmade_checkpoint.write(tmp_path / "model", architectures=["MellumForCausalLM"])
    program = "from ggufkit.llamacpp import find; find._homes = list; from ggufkit.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", program, "convert", "model"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={key: value for key, value in os.environ.items() if key != "GGUFKIT_LLAMA_CPP"},
    )
    assert done.returncode == 3
    assert "'MellumForCausalLM'" in done.stderr
    assert "hint: ggufkit setup" in done.stderr


def test_a_snapshot_in_the_cache_of_hugging_face_is_named_after_its_model(tmp_path: Path) -> None:
    folder = tmp_path / "hub" / "models--me--my-model" / "snapshots" / "0123abcd"
    handmade_checkpoint.write(folder)
    assert ggufkit("convert", folder, "-q", "--outtype", "auto", cwd=tmp_path).stdout == "my-model-F16.gguf\n"
