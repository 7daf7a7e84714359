"""Converting as a whole: deterministic, atomic, bounded, and clear about what is wrong."""

import errno
import hashlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import handmade_checkpoint
import numpy as np
import pytest
from gguf import GGUFReader

from ggufkit.conversion import Converter, OutputType, convert, execute
from ggufkit.errors import CheckpointError, OutputError, UnsafeError, UsageError


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_the_same_input_gives_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the number of threads, the size of the pieces, the hash seed, or how the weights are sharded."""
    source = handmade_checkpoint.write(tmp_path / "model")
    convert(source, tmp_path / "a.gguf", threads=1)
    monkeypatch.setattr(execute, "_PIECE_BYTES", 100)
    convert(source, tmp_path / "b.gguf", threads=5)
    command = "import sys; from pathlib import Path; from ggufkit import convert; convert(*map(Path, sys.argv[1:]))"
    for seed in ("1", "2"):
        subprocess.run(
            [sys.executable, "-c", command, source, tmp_path / f"{seed}.gguf"],
            env={**os.environ, "PYTHONHASHSEED": seed, "LC_ALL": "C"},
            check=True,
        )
    assert len({digest(tmp_path / name) for name in ("a.gguf", "b.gguf", "1.gguf", "2.gguf")}) == 1


def test_shards_give_the_tensors_of_a_single_file(tmp_path: Path) -> None:
    convert(handmade_checkpoint.write(tmp_path / "one" / "model"), tmp_path / "one.gguf")
    handmade_checkpoint.shard(tmp_path / "many" / "model", parts=3)
    convert(tmp_path / "many" / "model", tmp_path / "many.gguf")
    one, many = (
        {tensor.name: tensor.data.tobytes() for tensor in GGUFReader(tmp_path / name).tensors}
        for name in ("one.gguf", "many.gguf")
    )
    assert one == many


def test_f32_keeps_every_bit(tmp_path: Path) -> None:
    convert(handmade_checkpoint.write(tmp_path / "model"), tmp_path / "out.gguf", outtype=OutputType.F32)
    found = {tensor.name: tensor.data for tensor in GGUFReader(tmp_path / "out.gguf").tensors}
    weights = handmade_checkpoint.tensors()
    assert np.array_equal(found["token_embd.weight"], weights["model.embed_tokens.weight"])
    assert np.array_equal(found["blk.1.ffn_down.weight"], weights["model.layers.1.mlp.down_proj.weight"])


@pytest.mark.parametrize("value", [np.nan, np.inf, 70000.0])
def test_what_f16_cannot_hold_is_named_and_leaves_nothing(tmp_path: Path, value: float) -> None:
    weights = handmade_checkpoint.tensors()
    weights["model.layers.1.mlp.down_proj.weight"][3, 5] = value
    source = handmade_checkpoint.write(tmp_path / "model", weights)
    output = tmp_path / "out.gguf"
    output.write_bytes(b"old")
    with pytest.raises(CheckpointError, match=r"'model\.layers\.1\.mlp\.down_proj\.weight', element 197"):
        convert(source, output)
    assert output.read_bytes() == b"old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "out.gguf"]


def test_an_element_that_was_moved_is_named_where_the_checkpoint_has_it(tmp_path: Path) -> None:
    weights = handmade_checkpoint.tensors()
    weights["model.layers.1.self_attn.q_proj.weight"][1, 5] = np.nan
    source = handmade_checkpoint.write(tmp_path / "model", weights)
    with pytest.raises(CheckpointError, match=r"q_proj\.weight', element 37 is nan"):
        convert(source, tmp_path / "out.gguf")


@pytest.mark.parametrize("value", [np.nan, -np.inf, 1e9])
def test_q8_0_does_not_swallow_what_it_cannot_hold(tmp_path: Path, value: float) -> None:
    weights = handmade_checkpoint.tensors()
    weights["model.layers.1.mlp.down_proj.weight"][3, 5] = value
    source = handmade_checkpoint.write(tmp_path / "model", weights)
    with pytest.raises(CheckpointError, match=r"element 197 is"):
        convert(source, tmp_path / "out.gguf", outtype=OutputType.Q8_0)


def test_bf16_holds_what_f16_cannot(tmp_path: Path) -> None:
    weights = handmade_checkpoint.tensors()
    weights["model.layers.1.mlp.down_proj.weight"][3, 5] = 70000.0
    convert(handmade_checkpoint.write(tmp_path / "model", weights), tmp_path / "out.gguf", outtype=OutputType.BF16)
    assert (tmp_path / "out.gguf").exists()


def test_the_output_cannot_be_part_of_the_input(tmp_path: Path) -> None:
    source = handmade_checkpoint.write(tmp_path / "model")
    before = digest(source / "model.safetensors")
    for output in (source / "model.safetensors", source, source / ".." / "model" / "config.json"):
        with pytest.raises(UsageError):
            convert(source, output)
    assert digest(source / "model.safetensors") == before


def test_too_small_a_disk_is_found_before_writing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import shutil

    source = handmade_checkpoint.write(tmp_path / "model")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 10**9, 1000))
    with pytest.raises(OutputError, match=r"bytes needed, 1,000 free"):
        convert(source, tmp_path / "out.gguf")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_code_in_a_model_folder_is_never_run(tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    source = handmade_checkpoint.write(
        tmp_path / "model",
        architectures=["MellumForCausalLM"],
        auto_map={"AutoConfig": "evil.Config", "AutoTokenizer": "evil.Tokenizer"},
    )
    (source / "evil.py").write_text(f"open({str(marker)!r}, 'w').close()\n")
    with pytest.raises(UnsafeError, match=r"evil\.py|auto_map"):
        convert(source, tmp_path / "out.gguf")
    assert not marker.exists()
    # Our own converter has no use for the code, so a known architecture converts.
    handmade_checkpoint.write(source, auto_map={"AutoConfig": "evil.Config"})
    convert(source, tmp_path / "out.gguf")
    assert not marker.exists()


def test_a_quantized_checkpoint_is_not_converted_as_if_it_were_not(tmp_path: Path) -> None:
    source = handmade_checkpoint.write(tmp_path / "model", quantization_config={"quant_method": "mystery"})
    with pytest.raises(CheckpointError, match=r"'mystery' is not known; known are .*fp8"):
        convert(source, tmp_path / "out.gguf", converter=Converter.NATIVE)
    handmade_checkpoint.write(source, quantization_config="awq")
    with pytest.raises(CheckpointError, match="expected an object"):
        convert(source, tmp_path / "out.gguf")
    handmade_checkpoint.write(source, quantization_config={})
    convert(source, tmp_path / "out.gguf", converter=Converter.NATIVE)


@pytest.mark.fault
@pytest.mark.parametrize("threads", [1, 3])
def test_a_disk_that_fills_up_on_the_way_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, threads: int
) -> None:
    """Where nothing can be reserved, the error comes from a worker."""
    writes = iter(range(5))

    def fill_up(*arguments: Any) -> int:
        if next(writes, None) is None:
            raise OSError(errno.ENOSPC, "No space left on device")
        return pwrite(*arguments)

    pwrite = os.pwrite
    source = handmade_checkpoint.write(tmp_path / "model")
    monkeypatch.setattr(execute.os, "pwrite", fill_up)
    with pytest.raises(OutputError, match="No space left"):
        convert(source, tmp_path / "out.gguf", threads=threads)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


@pytest.mark.fault
@pytest.mark.parametrize("wanted", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_soon_and_leaves_nothing(tmp_path: Path, wanted: signal.Signals) -> None:
    weights = handmade_checkpoint.tensors()
    weights["model.embed_tokens.weight"] = np.zeros((200_000, 32), np.float32)
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"]
    source = handmade_checkpoint.write(tmp_path / "model", weights)
    program = (
        "import sys, time; from ggufkit.conversion import execute; from ggufkit import cli\n"
        "done = execute._done\n"
        "def crawl(*piece): time.sleep(0.1); print('working', file=sys.stderr, flush=True); yield from done(*piece)\n"
        "execute._done = crawl; cli.main()"
    )
    # A vocabulary as large as the embedding, or the plan would refuse.
    tokens = handmade_checkpoint.TOKENS + [f"t{i}" for i in range(200_000 - handmade_checkpoint.VOCABULARY)]
    tokenizer: dict[str, Any] = json.loads((source / "tokenizer.json").read_text())
    tokenizer["model"]["vocab"] = {token: index for index, token in enumerate(tokens)}
    (source / "tokenizer.json").write_text(json.dumps(tokenizer))
    config = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps({**config, "vocab_size": 200_000}))
    child = subprocess.Popen(
        [sys.executable, "-c", program, "convert", source, "-o", tmp_path / "out.gguf", "-t", "1"],
        stderr=subprocess.PIPE,
        text=True,
    )
    assert child.stderr
    assert child.stderr.readline() == "working\n"
    child.send_signal(wanted)
    errors = child.stderr.read()
    assert child.wait(timeout=10) == {signal.SIGINT: 130, signal.SIGTERM: 143}[wanted]
    assert "Traceback" not in errors
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
