"""What llama.cpp would die of is refused before a weight is written, and named."""

import json
from pathlib import Path
from typing import Any

import pytest
import recipes
import tiny_tokenizers

from ggufkit.architectures import spec_for
from ggufkit.checkpoints import Config
from ggufkit.conversion import convert
from ggufkit.errors import CheckpointError


def whole(name: str, folder: Path) -> Path:
    """Write a checkpoint with a tokenizer."""
    path = recipes.checkpoint(name, folder / name)
    config = Config(json.loads((path / "config.json").read_text()))
    spec = spec_for(config.architecture, config.model_type)
    tiny_tokenizers.write_tokenizer(spec.vocabulary.value, config.architecture, path)
    return path


@pytest.mark.parametrize(
    ("name", "key", "value", "reason"),
    [
        ("bert", "layer_norm_eps", -0.5, "attention.layer_norm_epsilon is -0.5"),
        ("bert", "layer_norm_eps", 1e308, "would be 1e.308, more than float32 can hold"),
        ("deepseek-v2-lite", "num_experts_per_tok", None, "expert_used_count"),
    ],
)
def test_numbers_that_no_model_has(name: str, key: str, value: Any, reason: str, tmp_path: Path) -> None:
    folder = whole(name, tmp_path)
    output = tmp_path / "model.gguf"
    convert(folder, output)
    before = output.read_bytes()
    path = folder / "config.json"
    config = json.loads(path.read_text())
    if value is None:
        del config[key]
    else:
        config[key] = value
    path.write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=reason):
        convert(folder, output)
    assert output.read_bytes() == before
    assert sorted(tmp_path.iterdir()) == [folder, output]


def test_a_piece_longer_than_a_stack_is_deep(tmp_path: Path) -> None:
    folder = whole("t5", tmp_path)
    path = folder / "tokenizer.json"
    tokenizer = json.loads(path.read_text())
    tokenizer["model"]["vocab"][100][0] = "a" * 100_000
    path.write_text(json.dumps(tokenizer))
    with pytest.raises(CheckpointError, match=r"a piece of 100,000 bytes \(number 100\)"):
        convert(folder, tmp_path / "model.gguf")


def test_a_piece_that_is_no_text(tmp_path: Path) -> None:
    folder = whole("gemma2", tmp_path)
    path = folder / "tokenizer.model"
    content = path.read_bytes()
    place = content.index("▁".encode()) + 1  # the middle of its three bytes
    path.write_bytes(content[:place] + b"A" + content[place + 1 :])
    with pytest.raises(CheckpointError, match=r"tokenizer.model: piece \d+ is not UTF-8"):
        convert(folder, tmp_path / "model.gguf")
