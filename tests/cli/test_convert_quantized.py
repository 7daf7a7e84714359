"""Checkpoints that others quantized, as a user meets them: one line, a document, and refusals by name."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import library_fixtures
import pytest
import stored_tensors

from ggufkit.conversion import convert
from ggufkit.errors import CheckpointError

STATIC = library_fixtures.DATA / "compressed-tensors-fp8-static"
INTEGERS = library_fixtures.DATA / "compressed-tensors-w4a16-g128"


def ggufkit(*arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "ggufkit", *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True)


def test_one_line_says_what_was_found_kept_and_dropped(tmp_path: Path) -> None:
    done = ggufkit("convert", STATIC, "-o", "out.gguf", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[0] == (
        "compressed-tensors (float 8 bits, tensor): 14 quantized tensors; dropped 14 input_scale "
        "(a scale of activations, which llama.cpp works out by itself); 14 dequantized"
    )
    done = ggufkit("convert", INTEGERS, "-o", "kept.gguf", "--outtype", "source", cwd=tmp_path)
    assert done.stdout.splitlines()[0] == (
        "compressed-tensors (int 4 bits, group 128): 14 quantized tensors; 14 kept as Q4_0"
    )


def test_the_document_says_the_same(tmp_path: Path) -> None:
    told = json.loads(ggufkit("convert", STATIC, "-o", "out.gguf", "--json", cwd=tmp_path).stdout)["quantization"]
    assert (told["scheme"], told["quantized_tensors"], told["kept"]) == ("compressed-tensors", 14, {})
    assert [len(names) for names in told["dropped"].values()] == [14]
    dry = ("convert", INTEGERS, "--dry-run", "--json", "--outtype", "source")
    assert json.loads(ggufkit(*dry, cwd=tmp_path).stdout)["quantization"]["kept"] == {"Q4_0": 14}
    assert list(tmp_path.iterdir()) == [tmp_path / "out.gguf"]


@pytest.mark.engine
def test_quantizing_and_planning_take_it_too(tmp_path: Path) -> None:
    """In one pass, and by an F16 file in between: the same bytes."""
    done = ggufkit("quantize", "Q8_0", STATIC, "-o", "one.gguf", "--engine", "direct", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "found compressed-tensors (float 8 bits, tensor): 14 quantized tensors" in done.stderr
    assert ggufkit("convert", STATIC, "-o", "f16.gguf", cwd=tmp_path).returncode == 0
    assert ggufkit("quantize", "Q8_0", "f16.gguf", "-o", "two.gguf", cwd=tmp_path).returncode == 0
    names = {path: path.read_bytes()[-100_000:] for path in (tmp_path / "one.gguf", tmp_path / "two.gguf")}
    assert len(set(names.values())) == 1
    planned = ggufkit("plan", STATIC, cwd=tmp_path)
    assert planned.returncode == 0, planned.stderr
    assert "the weights are quantized already, so more will be lost" in planned.stderr


def damaged(folder: Path, change: Any) -> Path:
    shutil.copytree(INTEGERS, folder)
    tensors = stored_tensors.read(folder / "model.safetensors")
    config = json.loads((folder / "config.json").read_text())
    change(tensors, config["quantization_config"])
    stored_tensors.write(folder / "model.safetensors", tensors)
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def not_a_number(tensors: stored_tensors.Stored, _: Any) -> None:
    name = "model.layers.1.mlp.up_proj.weight_scale"
    dtype, shape, data = tensors[name]
    tensors[name] = dtype, shape, b"\xc0\x7f" + data[2:]


def other_bits(_: stored_tensors.Stored, told: Any) -> None:
    told["config_groups"]["group_0"]["weights"]["num_bits"] = 8


def other_group(_: stored_tensors.Stored, told: Any) -> None:
    told["config_groups"]["group_0"]["weights"]["group_size"] = 64


def no_scale(tensors: stored_tensors.Stored, _: Any) -> None:
    del tensors["model.layers.0.self_attn.q_proj.weight_scale"]


def cut(tensors: stored_tensors.Stored, _: Any) -> None:
    dtype, shape, data = tensors["model.layers.0.mlp.up_proj.weight_packed"]
    tensors["model.layers.0.mlp.up_proj.weight_packed"] = dtype, (shape[0], shape[1] - 1), data[: -4 * shape[0]]


def other_method(tensors: stored_tensors.Stored, told: Any) -> None:
    told["quant_method"] = "quip"
    for name in [name for name in tensors if name.endswith("_packed")]:
        tensors[name.replace("_packed", "_codes")] = tensors.pop(name)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (not_a_number, "'model.layers.1.mlp.up_proj.weight_scale', element 0 is nan"),
        (other_bits, "the config says 8 (num_bits)"),
        (other_group, "by the config's group size of 64 there are"),
        (no_scale, "has no model.layers.0.self_attn.q_proj.weight_scale"),
        (cut, "has 31 words for 256 columns, which is no width up to 8 bits; the config says 4 (num_bits)"),
    ],
)
def test_wrong_checkpoints_are_refused(change: Any, message: str, tmp_path: Path) -> None:
    folder = damaged(tmp_path / "model", change)
    with pytest.raises(CheckpointError, match=re.escape(message)):
        convert(folder, tmp_path / "out.gguf")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_refusal_is_one_line_and_a_hint(tmp_path: Path) -> None:
    folder = damaged(tmp_path / "model", other_method)
    done = ggufkit("convert", folder, "-o", "out.gguf", cwd=tmp_path)
    error, hint = filter(None, done.stderr.splitlines())
    assert (done.returncode, done.stdout) == (3, "")
    assert error.startswith("error: config.json: the quantization 'quip' is not known; known are ")
    assert hint.startswith("hint: ")
