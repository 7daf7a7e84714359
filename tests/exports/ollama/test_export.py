"""A store holds, byte for byte, what a second reading of Ollama's formats says; and the model's own file."""

import json
import os
import stat
import subprocess
import time
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import ollama_by_hand
import pytest
import tiny_gguf
import tiny_model

from ggufkit.errors import GgufFileError, GgufkitError, InputError, UsageError
from ggufkit.exports import placing
from ggufkit.exports.ollama import ExportOptions, Store, export, parse_name, plan_export
from ggufkit.exports.ollama.description import human_number
from ggufkit.exports.ollama.messages import Message
from ggufkit.exports.ollama.modelfile import commands_of
from ggufkit.exports.ollama.parameters import encode, read_parameters
from ggufkit.llamacpp.find import find

LATEST = "registry.ollama.ai/library/m/latest"


def write_other(path: Path, kind: str, architecture: str = "llama", **values: Any) -> Path:
    """An adapter, a projector, or a model of some architecture with some metadata."""
    writer = gguf.GGUFWriter(path, architecture)
    if kind != "model":
        writer.add_type(kind)
    for key, value in values.items():
        name = key.replace("__", ".")
        if isinstance(value, bool):
            writer.add_bool(name, value)
        elif isinstance(value, int):
            writer.add_uint32(name, value)
        elif isinstance(value, float):
            writer.add_float32(name, value)
        else:
            writer.add_array(name, value)
    writer.add_tensor("x", np.zeros((4, 8), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return tiny_model.write(tmp_path / "model.gguf")


def exported(model: Path, store: Path, options: ExportOptions | None = None, name: str = "m", **how: Any) -> Any:
    return export(plan_export(model, options or ExportOptions()), parse_name(name), Store(store), **how)


def test_a_plain_model(model: Path, tmp_path: Path):
    exported(model, tmp_path / "store")
    assert ollama_by_hand.files(tmp_path / "store") == ollama_by_hand.store(
        LATEST,
        ollama_by_hand.config(model),
        [("model", model.read_bytes()), ("params", ollama_by_hand.go({"num_ctx": 512, "stop": ["<|im_end|>"]}))],
    )


def test_a_model_with_everything(model: Path, tmp_path: Path):
    adapter = write_other(tmp_path / "adapter.gguf", "adapter")
    projector = write_other(tmp_path / "mmproj.gguf", "mmproj", "clip")
    system, licenses = 'Be <kind> & "short".\n', ("MIT\n\nPermission …", "And another.")
    options = ExportOptions(
        system=system,
        parameters=read_parameters(
            [("temperature", "0.60"), ("stop", "<b>"), ("stop", "&"), ("top_p", "1"), ("use_mmap", "F"), ("seed", "-1")]
        ),
        licenses=licenses,
        messages=(Message("user", "1 < 2?"), Message("assistant", "yes\u2028")),
        template="{{ range .Messages }}{{ .Content }}{{ end }}",
        adapter=adapter,
        projector=projector,
    )
    exported(model, tmp_path / "store", options)
    parameters = {"num_ctx": 512, "seed": -1, "stop": ["<b>", "&"], "temperature": 0.6, "top_p": 1, "use_mmap": False}
    messages = [{"role": "user", "content": "1 < 2?"}, {"role": "assistant", "content": "yes\u2028"}]
    assert ollama_by_hand.files(tmp_path / "store") == ollama_by_hand.store(
        LATEST,
        ollama_by_hand.config(model),
        [
            ("projector", projector.read_bytes()),  # mmproj.gguf comes before model.gguf
            ("model", model.read_bytes()),
            ("adapter", adapter.read_bytes()),
            ("template", options.template.encode()),
            ("system", system.encode()),
            *(("license", text.encode()) for text in licenses),
            ("params", ollama_by_hand.go(parameters)),
            ("messages", ollama_by_hand.go(messages)),
        ],
    )


@pytest.mark.parametrize("file_type", [0, 1, 4, 7, 15, 19, 30, 32, 38])
def test_file_types_have_the_names_that_ollama_has_for_them(file_type: int, tmp_path: Path):
    model = tiny_gguf.write_model(tmp_path / "m.gguf", file_type=file_type)
    assert plan_export(model, ExportOptions()).config.encode() == ollama_by_hand.config(model)


@pytest.mark.parametrize("architecture", ["gemma4", "laguna", "nemotron_h"])
def test_architectures_that_ollama_renders_itself(architecture: str, tmp_path: Path):
    model = write_other(tmp_path / "m.gguf", "model", architecture)
    plan = plan_export(model, ExportOptions())
    assert plan.config.encode() == ollama_by_hand.config(model)
    assert plan.parameters == ({"stop": ["<turn|>"]} if architecture == "gemma4" else {})


@pytest.mark.parametrize(
    ("count", "text"),
    [
        *((0, "0"), (999, "999"), (1000, "1K"), (12_499, "12K"), (12_500, "12K"), (13_500, "14K"), (999_999, "1000K")),
        *((1_000_000, "1M"), (494_032_768, "494.03M"), (999_999_999, "1000.00M"), (1_000_000_000, "1B")),
        *((1_235_814_432, "1.2B"), (7_615_616_512, "7.6B"), (671_026_419_200, "671.0B"), (70_000_000_000, "70B")),
    ],
)
def test_numbers_of_weights(count: int, text: str):
    assert human_number(count) == text == ollama_by_hand.human(count)


def test_parameters_of_the_model(tmp_path: Path):
    tokens = ["a", "<eos>", "<eot>", "<eom>", "<more>"]
    model = write_other(
        tmp_path / "m.gguf",
        "model",
        llama__context_length=32768,
        tokenizer__ggml__tokens=tokens,
        tokenizer__ggml__eos_token_id=1,
        tokenizer__ggml__eot_token_id=2,
        tokenizer__ggml__eom_token_id=3,
        general__sampling__temp=0.6,
        general__sampling__top_k=20,
    )
    settings = {"eos_token_id": [1, 4, 99], "temperature": 0.9, "top_p": 0.95, "repetition_penalty": 1.0, "top_k": 50}
    (tmp_path / "generation_config.json").write_text(json.dumps(settings))
    params = dict(plan_export(model, ExportOptions()).texts)["params"]
    assert params == ollama_by_hand.go(
        {
            "num_ctx": 32768,
            "repeat_penalty": 1,
            "stop": ["<eos>", "<eot>", "<eom>", "<more>"],
            "temperature": 0.6,
            "top_k": 20,
            "top_p": 0.95,
        }
    )
    greedy = tmp_path / "greedy.json"
    greedy.write_text(json.dumps({**settings, "do_sample": False}))
    plan = plan_export(model, ExportOptions(generation_config=greedy))
    assert set(plan.parameters) == {"stop", "num_ctx", "temperature", "top_k"}


def test_whole_numbers_are_written_as_a_server_reads_them_from_json():
    numbers = [("seed", "9007199254740993"), ("num_keep", "-9223372036854775808"), ("num_ctx", "+0008192")]
    assert encode(read_parameters(numbers)) == (
        b'{"num_ctx":8192,"num_keep":-9223372036854776000,"seed":9007199254740992}\n'
    )


def test_numbers_that_are_none_do_not_count(model: Path, tmp_path: Path):
    settings = tmp_path / "strange.json"
    settings.write_text(
        '{"temperature": NaN, "top_p": -Infinity, "top_k": 1e300, "min_p": 0.05, "repetition_penalty": "1"}'
    )
    plan = plan_export(model, ExportOptions(generation_config=settings))
    assert dict(plan.texts)["params"] == ollama_by_hand.go({"min_p": 0.05, "num_ctx": 512, "stop": ["<|im_end|>"]})


def test_a_context_that_takes_much_memory_is_warned_of(tmp_path: Path):
    large = {"llama__block_count": 32, "llama__attention__head_count": 32, "llama__embedding_length": 4096}
    model = write_other(tmp_path / "m.gguf", "model", llama__context_length=131072, **large)
    [warning] = [text for text in plan_export(model, ExportOptions()).warnings if "num_ctx" in text]
    assert "131,072 tokens, which take up to 69 GB" in warning  # 2 x 2 bytes x 4096 x 32 x 131072
    chosen = ExportOptions(parameters=read_parameters([("num_ctx", "8192")]))
    assert not [text for text in plan_export(model, chosen).warnings if "num_ctx" in text]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("num_ctx", "4k"), ("num_ctx", "1.5"), ("top_k", str(1 << 63)), ("temperature", "hot"), ("temperature", "nan"),
        ("top_p", "1e99"), ("seed", "9" * 5000), ("use_mmap", "yes"), ("stop", ""), ("nonsense", "1"),
        ("mirostat", "2"),
    ],
)  # fmt: skip
def test_wrong_parameters_are_refused_by_name(name: str, value: str):
    with pytest.raises(UsageError, match=name):
        read_parameters([(name, value)])


# ---- how a file comes in


def test_on_one_file_system_nothing_is_copied(model: Path, tmp_path: Path):
    done = exported(model, tmp_path / "store")
    blob = Store(tmp_path / "store").blob(done.layers[0].digest)
    assert done.how[done.layers[0].digest] in {"hard link", "reflink"}
    if done.how[done.layers[0].digest] == "hard link":
        assert blob.samefile(model)
    for path in (tmp_path / "store").rglob("*"):
        assert stat.S_IMODE(path.stat().st_mode) == (0o755 if path.is_dir() else 0o644)


def test_a_copy_when_asked_for_or_when_links_cannot_be(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    done = exported(model, tmp_path / "asked", copy=True)
    assert done.how[done.layers[0].digest] == "copy"
    assert not Store(tmp_path / "asked").blob(done.layers[0].digest).samefile(model)

    exported(model, tmp_path / "later")
    exported(model, tmp_path / "later", copy=True)  # what was linked is linked no more
    assert not Store(tmp_path / "later").blob(done.layers[0].digest).samefile(model)

    def another_device(*_: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", another_device)
    monkeypatch.setattr(placing.fcntl, "ioctl", another_device)
    done = exported(model, tmp_path / "forced")
    assert done.how[done.layers[0].digest] == "copy"
    assert ollama_by_hand.files(tmp_path / "forced") == ollama_by_hand.files(tmp_path / "asked")


def test_blobs_are_touched_so_that_a_server_that_starts_keeps_them(model: Path, tmp_path: Path):
    exported(model, tmp_path / "store")
    long_ago = time.time() - 7200
    for path in (tmp_path / "store/blobs").iterdir():
        os.utime(path, (long_ago, long_ago))
    exported(model, tmp_path / "store")
    assert all(path.stat().st_mtime > time.time() - 600 for path in (tmp_path / "store/blobs").iterdir())


def test_a_file_behind_a_symbolic_link_is_exported_and_not_the_link(model: Path, tmp_path: Path):
    link = tmp_path / "link.gguf"
    link.symlink_to(model)
    done = exported(link, tmp_path / "store")
    blob = Store(tmp_path / "store").blob(done.layers[0].digest)
    assert not blob.is_symlink()
    assert blob.read_bytes() == model.read_bytes()


@pytest.mark.parametrize("place", ["model", "system"])
def test_a_blob_with_the_right_name_and_the_wrong_content_is_repaired(model: Path, tmp_path: Path, place: str):
    options = ExportOptions(system="be kind")
    done = exported(model, tmp_path / "store", options, copy=True)
    whole = ollama_by_hand.files(tmp_path / "store")
    layer = next(layer for layer in done.layers if layer.media_type.endswith(place))
    blob = Store(tmp_path / "store").blob(layer.digest)
    damaged = bytearray(blob.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    for content in (bytes(damaged), bytes(damaged)[:-1], b""):
        blob.write_bytes(content)
        exported(model, tmp_path / "store", options, copy=True)
        assert ollama_by_hand.files(tmp_path / "store") == whole


def test_a_dry_run_says_what_would_be_and_writes_nothing(model: Path, tmp_path: Path):
    told = exported(model, tmp_path / "store", dry_run=True)
    assert not (tmp_path / "store").exists()
    done = exported(model, tmp_path / "store")
    assert (told.manifest, told.layers, told.config) == (done.manifest, done.layers, done.config)


def test_a_file_that_changes_while_it_is_hashed_is_refused(model: Path, tmp_path: Path):
    def write_on(*_: object) -> None:
        with model.open("ab") as file:
            file.write(b"x")
        os.utime(model, (1, 1))

    with pytest.raises(InputError, match="changed while"):
        exported(model, tmp_path / "store", progress=write_on)
    assert ollama_by_hand.files(tmp_path / "store") == {}


# ---- what cannot be exported


def test_what_is_not_a_model_is_refused_with_the_next_step(model: Path, tmp_path: Path):
    checkpoint = tmp_path / "checkpoint"
    checkpoint.mkdir()
    (checkpoint / "config.json").write_text("{}")
    adapter = write_other(tmp_path / "adapter.gguf", "adapter", "qwen2")
    pointer = tmp_path / "pointer.gguf"
    pointer.write_text("version https://git-lfs.github.com/spec/v1\n")
    part = write_other(tmp_path / "m-00001-of-00001.gguf", "model", split__count=1)
    assert plan_export(part, ExportOptions())  # split in one is not split
    cases: list[tuple[Path, ExportOptions, str, str]] = [
        (tmp_path / "nothing.gguf", ExportOptions(), "there is no file", ""),
        (checkpoint, ExportOptions(), "checkpoint folder", "ggufkit quantize"),
        (pointer, ExportOptions(), "LFS pointer", "git lfs pull"),
        (adapter, ExportOptions(), "is a adapter|is an adapter", "--adapter"),
        (model, ExportOptions(projector=model), "is a model", "as MODEL"),
        (model, ExportOptions(adapter=adapter), "architecture qwen2", ""),
        (model, ExportOptions(generation_config=tmp_path / "no.json"), "there is no file", ""),
    ]
    for path, options, message, hint in cases:
        with pytest.raises(GgufkitError, match=message) as caught:
            plan_export(path, options)
        assert hint in (caught.value.hint or "")


@pytest.mark.engine
def test_a_split_model_becomes_the_file_that_llama_cpp_merges_it_to(tmp_path: Path):
    whole = tiny_gguf.write_model(tmp_path / "big-F16.gguf")
    tool = find().tool("llama-gguf-split")
    subprocess.run([tool, "--split-max-size", "1M", whole, tmp_path / "big-F16"], check=True, capture_output=True)
    parts = sorted(tmp_path.glob("big-F16-*-of-*.gguf"))
    merged = tmp_path / "merged.gguf"
    subprocess.run([tool, "--merge", parts[0], merged], check=True, capture_output=True)
    told = exported(parts[0], tmp_path / "store", dry_run=True)
    done = exported(parts[0], tmp_path / "store")
    assert (done.manifest, set(done.how.values())) == (told.manifest, {"merged"})
    store = Store(tmp_path / "store")
    reader, by_tool = gguf.GGUFReader(store.blob(done.layers[0].digest)), gguf.GGUFReader(merged)
    assert [(t.name, t.data.tobytes()) for t in reader.tensors] == [(t.name, t.data.tobytes()) for t in by_tool.tensors]
    assert "split.count" not in reader.fields
    assert plan_export(parts[0], ExportOptions()).config == plan_export(whole, ExportOptions()).config
    assert ollama_by_hand.problems(store.path) == []
    commands = commands_of(plan_export(parts[0], ExportOptions()), ExportOptions())
    assert [command.value for command in commands if command.name == "from"] == [str(part) for part in parts]
    with pytest.raises(GgufFileError, match="not its first"):
        plan_export(parts[1], ExportOptions())
    parts[1].write_bytes(parts[2].read_bytes())
    with pytest.raises(GgufFileError, match="not the parts of one model"):
        plan_export(parts[0], ExportOptions())
    parts[1].unlink()
    with pytest.raises(GgufFileError, match=parts[1].name):
        plan_export(parts[0], ExportOptions())
