"""Folders of sentence-transformers: how they pool, what follows, and what is refused."""

import json
from pathlib import Path

import pytest

from ggufkit.checkpoints import read_config
from ggufkit.errors import CheckpointError

MODULES = [
    {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
    {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
    {"idx": 2, "name": "2", "path": "2_Normalize", "type": "sentence_transformers.models.Normalize"},
]


def folder(root: Path, pooling: object, modules: object = MODULES) -> Path:
    (root / "config.json").write_text("{}")
    (root / "modules.json").write_text(json.dumps(modules))
    (root / "1_Pooling").mkdir()
    (root / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    return root


@pytest.mark.parametrize(
    ("pooling", "mode"),
    [
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}, "cls"),
        ({"pooling_mode_mean_tokens": True}, "mean"),
        ({"pooling_mode_lasttoken": True}, "lasttoken"),
        ({"pooling_mode": "mean", "word_embedding_dimension": 384}, "mean"),
        ({"pooling_mode_mean_tokens": True, "pooling_mode_max_tokens": True}, "mean+max"),
        ({}, "none"),
    ],
)
def test_the_mode_is_read(tmp_path: Path, pooling: object, mode: str) -> None:
    config = read_config(folder(tmp_path, pooling))
    assert config["sentence_transformers_pooling"] == mode
    assert config["sentence_transformers_modules"] == ["Transformer", "Pooling", "Normalize"]


def test_other_folders_have_nothing_of_it(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    assert dict(read_config(tmp_path)) == {}


@pytest.mark.parametrize(
    ("modules", "pooling", "message"),
    [
        ({"no": "list"}, {}, "not a list of modules"),
        ([{"path": "../elsewhere", "type": "models.Pooling"}], {}, "outside of the model's"),
        ([{"path": "2_Pooling", "type": "models.Pooling"}], {}, "cannot read"),
        (MODULES, [], "holds no settings"),
    ],
)
def test_malformed_folders_are_refused(tmp_path: Path, modules: object, pooling: object, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        read_config(folder(tmp_path, pooling, modules))
