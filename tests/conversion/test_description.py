"""What a file says about its model: from the card and configs, in whatever state, and from the command line."""

import json
import shutil
from pathlib import Path
from typing import Any

import gguf
import handmade_checkpoint
import pytest

import ggufkit
from ggufkit.checkpoints.fingerprint import fingerprint
from ggufkit.conversion import convert, read_edits
from ggufkit.errors import CheckpointError, UsageError

CARD = """---
license: apache-2.0
base_model: organization/Base-Model-7B
language: [en, de]
tags: [chat]
pipeline_tag: text-generation
model_creator: Ada
---
# A model
"""


def fields(folder: Path, output: Path, **more: Any) -> tuple[dict[str, Any], tuple[str, ...]]:
    result = convert(folder, output, **more)
    return {key: field.contents() for key, field in gguf.GGUFReader(output).fields.items()}, result.warnings


def test_the_card_and_the_generation_config(tmp_path: Path) -> None:
    folder = handmade_checkpoint.write(tmp_path / "Some-Model-Instruct-v2")
    (folder / "README.md").write_text(CARD)
    (folder / "generation_config.json").write_text(json.dumps({"temperature": 0.6, "top_k": 20, "top_p": 0.95}))
    found, warnings = fields(folder, tmp_path / "out.gguf")
    assert warnings == ()
    wanted = {
        "general.name": "Some Model Instruct v2",
        "general.basename": "Some-Model",
        "general.finetune": "Instruct",
        "general.version": "v2",
        "general.author": "Ada",
        "general.license": "apache-2.0",
        "general.languages": ["en", "de"],
        "general.tags": ["chat", "text-generation"],
        "general.base_model.count": 1,
        "general.base_model.0.name": "Base Model 7B",
        "general.base_model.0.organization": "Organization",
        "general.sampling.top_k": 20,
    }
    assert {key: found.get(key) for key in wanted} == wanted
    assert found["general.sampling.temp"] == pytest.approx(0.6)
    assert found["ggufkit.version"] == ggufkit.__version__
    assert found["ggufkit.source.fingerprint"] == fingerprint(folder)


@pytest.mark.parametrize(
    ("name", "content", "warning"),
    [
        ("README.md", "---\nlicense: [a, {\n---\n", "README.md is malformed"),
        ("README.md", b"---\nlicense: \xff\n---\n", "README.md is malformed"),
        ("README.md", "---\nbase_model: 7\ntags: {a: b}\nlicense: {x: 1}\n---\n", "malformed"),
        ("README.md", "---\nlicense: 3\n---\n", "general.license would be 3"),
        ("generation_config.json", "{", "generation_config.json is malformed"),
        ("generation_config.json", "[1]", "generation_config.json is malformed"),
        ("generation_config.json", '{"temperature": "hot"}', "general.sampling.temp would be 'hot'"),
        ("generation_config.json", '{"top_k": [1], "top_p": 0.5}', "general.sampling.top_k"),
    ],
)
def test_what_is_malformed_is_left_out_with_a_warning(
    name: str, content: str | bytes, warning: str, tmp_path: Path
) -> None:
    folder = handmade_checkpoint.write(tmp_path / "model")
    (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    found, warnings = fields(folder, tmp_path / "out.gguf")
    assert warning in "\n".join(warnings)
    assert found["general.name"] == "Model"


def test_the_same_checkpoint_gives_the_same_bytes_wherever_it_lies(tmp_path: Path) -> None:
    first = handmade_checkpoint.write(tmp_path / "a" / "model")
    second = tmp_path / "elsewhere" / "deeper" / "model"
    shutil.copytree(first, second)
    (second / "notes.txt").write_text("not part of the model")
    convert(first, tmp_path / "first.gguf")
    convert(second, tmp_path / "second.gguf")
    assert (tmp_path / "first.gguf").read_bytes() == (tmp_path / "second.gguf").read_bytes()


def test_a_snapshot_in_the_hub_s_cache_is_named_after_its_repository(tmp_path: Path) -> None:
    cache = tmp_path / "models--some-org--Tiny-Llama-1B"
    revision = "0123456789abcdef0123456789abcdef01234567"
    folder = handmade_checkpoint.write(cache / "snapshots" / revision)
    found, _ = fields(folder, tmp_path / "out.gguf")
    assert found["general.name"] == "Tiny Llama 1B"
    assert found["general.organization"] == "Some Org"
    assert found["ggufkit.source.repository"] == "some-org/Tiny-Llama-1B"
    assert found["ggufkit.source.revision"] == revision


def test_the_fingerprint_tells_checkpoints_apart(tmp_path: Path) -> None:
    folder = handmade_checkpoint.write(tmp_path / "model")
    before = fingerprint(folder)
    weights = handmade_checkpoint.tensors()
    weights["model.norm.weight"] = weights["model.norm.weight"] * 2
    handmade_checkpoint.write(folder, weights)
    after = fingerprint(folder)
    handmade_checkpoint.write(folder, weights, rope_theta=20000.0)
    assert len({before, after, fingerprint(folder)}) == 3


def test_metadata_from_a_file_and_from_settings(tmp_path: Path) -> None:
    folder = handmade_checkpoint.write(tmp_path / "model")
    override = tmp_path / "override.json"
    override.write_text(
        json.dumps(
            {
                "general.name": "From the file",
                "general.author": "Ada",
                "general.tags": ["one"],
                "general.base_models": [{"name": "Base", "repo_url": "https://example.org/base"}],
                "general.sampling.temp": 1,
            }
        )
    )
    settings = [
        "general.name=From the command = line",
        "general.languages=en, de",
        "general.sampling.top_k=7",
        "llama.rope.freq_base=500000",
        "tokenizer.ggml.add_bos_token=true",
        "my.count=u64:9",
        "my.list=f32[]:[1, 2.5]",
        "my.note=str:a:b",
        "general.description=str:typed",
    ]
    found, _ = fields(folder, tmp_path / "out.gguf", edits=read_edits(override, settings))
    wanted = {
        "general.name": "From the command = line",
        "general.author": "Ada",
        "general.tags": ["one"],
        "general.languages": ["en", "de"],
        "general.base_model.count": 1,
        "general.base_model.0.repo_url": "https://example.org/base",
        "general.sampling.temp": 1.0,
        "general.sampling.top_k": 7,
        "llama.rope.freq_base": 500000.0,
        "tokenizer.ggml.add_bos_token": True,
        "my.count": 9,
        "my.list": [1.0, 2.5],
        "my.note": "a:b",
        "general.description": "typed",
    }
    assert {key: found.get(key) for key in wanted} == wanted
    kinds = {key: field.types[-1].name for key, field in gguf.GGUFReader(tmp_path / "out.gguf").fields.items()}
    assert (kinds["my.count"], kinds["my.list"], kinds["llama.rope.freq_base"]) == ("UINT64", "FLOAT32", "FLOAT32")


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("general.name", "not of the form KEY=VALUE"),
        ("unknown.key=1", "its type must be said"),
        ("unknown.key=u9:1", "its type must be said"),
        ("llama.context_length=many", "must be of type u32"),
        ("llama.context_length=-1", "must be of type u32"),
        ("llama.context_length=1.5", "must be of type u32"),
        ("general.sampling.temp=nan", "must be of type f32"),
        ("tokenizer.ggml.add_bos_token=1", "must be of type bool"),
        ("my.byte=u8:256", "must be of type u8"),
        ("my.list=i32[]:[1, true]", "must be of type i32"),
        ("general.tags=", "a list with something in it"),
        ("general.architecture=qwen2", "cannot be set"),
        ("llama.block_count=3", "cannot be set"),
        ("tokenizer.ggml.tokens=a,b", "cannot be set"),
        ("=1", "no metadata key"),
    ],
)
def test_settings_that_make_no_sense(setting: str, message: str, tmp_path: Path) -> None:
    folder = handmade_checkpoint.write(tmp_path / "model")
    with pytest.raises(UsageError, match=message):
        convert(folder, tmp_path / "out.gguf", edits=read_edits(None, [setting]))
    assert not (tmp_path / "out.gguf").exists()


def test_an_override_that_is_no_object(tmp_path: Path) -> None:
    (tmp_path / "override.json").write_text("[]")
    with pytest.raises(CheckpointError, match="expected a JSON object") as caught:
        read_edits(tmp_path / "override.json", [])
    (tmp_path / "override.json").write_text((caught.value.hint or "").removeprefix("such as "))
    assert read_edits(tmp_path / "override.json", []).values["general.author"] == "Ada"
    (tmp_path / "override.json").write_text('{"general.base_models": {"name": "x"}}')
    with pytest.raises(UsageError, match="list of objects"):
        read_edits(tmp_path / "override.json", [])
