"""config.json: what is read is remembered, what is wrong is named."""

import json
from pathlib import Path

import pytest

from ggufkit.checkpoints.config import Config, check_values, read_config
from ggufkit.errors import CheckpointError


def test_unread_keys_are_known() -> None:
    config = Config({"a": 1, "b": None, "c": 3}, defaults={"d": 4})
    assert config["a"] == 1
    assert config.get("b") is None
    assert config.unread() == ["c"]


def test_defaults_fill_what_is_absent_and_not_what_is_null() -> None:
    """A null switches something off (sliding_window, a softcap): the default would switch it on again."""
    config = Config({"a": 1, "b": None}).completed({"a": 10, "b": 20, "c": 30})
    assert dict(config) == {"a": 1, "c": 30}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "not valid JSON"),
        ("[]", "expected a JSON object"),
        ('{"a": NaN}', "not valid JSON"),
        ("[" * 100_000, "nested too deeply"),
        ('{"hidden_size": "256"}', "hidden_size is '256', expected a positive integer"),
        ('{"num_hidden_layers": 0}', "num_hidden_layers is 0"),
        ('{"vocab_size": true}', "vocab_size is True"),
        ('{"n_group": "8"}', "n_group is '8', expected an integer from 0 up"),
        ('{"sliding_window": "4096"}', "sliding_window is '4096'"),
        ('{"rms_norm_eps": 0}', "rms_norm_eps is 0, expected a positive number"),
        ('{"rms_norm_eps": 1e400}', "rms_norm_eps is inf"),
        ('{"rope_theta": 1e39}', r"rope_theta is 1e\+39"),
        ('{"tie_word_embeddings": "no"}', "expected true or false"),
        ('{"scoring_func": ["sigmoid"]}', "expected a name"),
        ('{"layer_types": 5}', "expected a list"),
        ('{"num_attention_heads": 4, "num_key_value_heads": 3}', "does not divide"),
    ],
)
def test_malformed_files_are_refused(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(CheckpointError, match=message):
        check_values(read_config(tmp_path))


def test_a_byte_order_mark_is_forgiven(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes(b"\xef\xbb\xbf" + json.dumps({"a": 1}).encode())
    assert read_config(tmp_path)["a"] == 1


def test_missing_things_are_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no such folder"):
        read_config(tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match=r"no config\.json"):
        read_config(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="not a checkpoint folder"):
        read_config(tmp_path / "file")


@pytest.mark.parametrize("architectures", [None, [], "LlamaForCausalLM", [3]])
def test_an_architecture_must_be_named(architectures: object) -> None:
    with pytest.raises(CheckpointError, match="names no architecture"):
        _ = Config({"architectures": architectures}).architecture
