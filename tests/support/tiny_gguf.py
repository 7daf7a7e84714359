"""Tiny Llamas with random weights as GGUF files, importance matrices for them, and llama-quantizes that misbehave."""

import struct
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import gguf
import numpy as np

from ggufkit.llamacpp.find import find

BLOCKS = 2


def weights(
    hidden: int = 256, feed_forward: int = 512, vocabulary: int = 320, blocks: int = BLOCKS
) -> dict[str, tuple[int, ...]]:
    """Name all tensors with their shapes, in numpy's order."""
    shapes: dict[str, tuple[int, ...]] = {
        "token_embd.weight": (vocabulary, hidden),
        "output_norm.weight": (hidden,),
        "output.weight": (vocabulary, hidden),
    }
    for block in range(blocks):
        shapes |= {
            f"blk.{block}.attn_norm.weight": (hidden,),
            f"blk.{block}.attn_q.weight": (hidden, hidden),
            f"blk.{block}.attn_k.weight": (hidden // 2, hidden),
            f"blk.{block}.attn_v.weight": (hidden // 2, hidden),
            f"blk.{block}.attn_output.weight": (hidden, hidden),
            f"blk.{block}.ffn_norm.weight": (hidden,),
            f"blk.{block}.ffn_gate.weight": (feed_forward, hidden),
            f"blk.{block}.ffn_up.weight": (feed_forward, hidden),
            f"blk.{block}.ffn_down.weight": (hidden, feed_forward),
        }
    return shapes


def write_model(
    path: Path,
    *,
    hidden: int = 256,
    feed_forward: int = 512,
    blocks: int = BLOCKS,
    dtype: Any = np.float16,
    alignment: int | None = None,
    file_type: int | None = None,
    leave_out: Iterable[str] = (),
) -> Path:
    """Write a Llama that llama.cpp loads; one with odd widths cannot take every type."""
    random = np.random.default_rng(hidden + feed_forward)
    shapes = weights(hidden, feed_forward, blocks=blocks)
    writer = gguf.GGUFWriter(path, "llama")
    if alignment:
        writer.add_custom_alignment(alignment)
    writer.add_block_count(blocks)
    writer.add_context_length(128)
    writer.add_embedding_length(hidden)
    writer.add_feed_forward_length(feed_forward)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-5)
    own_type = gguf.LlamaFileType.MOSTLY_F16 if dtype == np.float16 else gguf.LlamaFileType.ALL_F32
    writer.add_file_type(own_type if file_type is None else file_type)
    writer.add_tokenizer_model("no_vocab")
    writer.add_vocab_size(shapes["token_embd.weight"][0])
    writer.add_token_list([f"t{number}" for number in range(shapes["token_embd.weight"][0])])
    for name, shape in shapes.items():
        if name in leave_out:
            continue
        tensor = random.standard_normal(shape) * 0.05
        writer.add_tensor(name, tensor.astype(dtype if len(shape) > 1 else np.float32))
    return _finish(writer, path)


def write_imatrix(path: Path, *, leave_out: Iterable[str] = (), columns: int | None = None) -> Path:
    """Write an importance matrix for `write_model`'s Llama, as llama-imatrix does: the blocks' matrices only."""
    random = np.random.default_rng(1)
    writer = gguf.GGUFWriter(path, "", endianess=gguf.GGUFEndian.LITTLE)
    writer.add_type("imatrix")
    writer.add_array("imatrix.datasets", ["some-text.txt"])
    writer.add_uint32("imatrix.chunk_count", 3)
    writer.add_uint32("imatrix.chunk_size", 512)
    for name, shape in weights().items():
        if name.startswith("blk.") and len(shape) > 1 and name not in leave_out:
            sums = random.random((1, columns or shape[1])).astype(np.float32) * 100
            writer.add_tensor(f"{name}.in_sum2", sums)
            writer.add_tensor(f"{name}.counts", np.full((1, 1), 1536, np.float32))
    return _finish(writer, path)


def write_experts(path: Path, matrix: Path, *, experts: int = 4) -> tuple[Path, Path]:
    """Write a mixture of experts, and an importance matrix in which each expert has its own values."""
    random = np.random.default_rng(experts)
    hidden, width = 256, 256
    writer = gguf.GGUFWriter(path, "llama")
    importance = gguf.GGUFWriter(matrix, "", endianess=gguf.GGUFEndian.LITTLE)
    importance.add_type("imatrix")
    importance.add_array("imatrix.datasets", ["some-text.txt"])
    importance.add_uint32("imatrix.chunk_count", 3)
    importance.add_uint32("imatrix.chunk_size", 512)
    writer.add_block_count(BLOCKS)
    writer.add_context_length(128)
    writer.add_embedding_length(hidden)
    writer.add_feed_forward_length(width)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_expert_count(experts)
    writer.add_expert_used_count(2)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    writer.add_tokenizer_model("no_vocab")
    writer.add_vocab_size(320)
    writer.add_token_list([f"t{number}" for number in range(320)])
    shapes = {name: shape for name, shape in weights().items() if ".ffn_" not in name or "norm" in name}
    for block in range(BLOCKS):
        shapes[f"blk.{block}.ffn_gate_inp.weight"] = (experts, hidden)
        for part in ("gate", "up", "down"):
            shapes[f"blk.{block}.ffn_{part}_exps.weight"] = (experts, width, hidden)
    for name, shape in shapes.items():
        tensor = random.standard_normal(shape) * 0.05
        matrix_like = len(shape) > 1 and "gate_inp" not in name
        writer.add_tensor(name, tensor.astype(np.float16 if matrix_like else np.float32))
        if name.startswith("blk.") and matrix_like:
            slices = shape[0] if len(shape) == 3 else 1
            sums = random.random((slices, shape[-1])).astype(np.float32) * 100
            counts = np.full((slices, 1), 1536, np.float32)
            counts[slices - 1] = 0 if slices > 1 else 1536  # an expert that no text reached
            importance.add_tensor(f"{name}.in_sum2", sums)
            importance.add_tensor(f"{name}.counts", counts)
    return _finish(writer, path), _finish(importance, matrix)


def write_legacy_imatrix(path: Path, *, leave_out: Iterable[str] = ()) -> Path:
    """Write an importance matrix in the format before GGUF: entries, then the chunk count and the text's name."""
    random = np.random.default_rng(1)
    names = [name for name, shape in weights().items() if name.startswith("blk.") and len(shape) > 1]
    names = [name for name in names if name not in leave_out]
    content = struct.pack("<i", len(names))
    for name in names:
        columns = weights()[name][1]
        content += struct.pack("<i", len(name)) + name.encode() + struct.pack("<ii", 3, columns)
        content += (random.random(columns) * 100).astype("<f4").tobytes()
    path.write_bytes(content + struct.pack("<ii", 3, len("some-text.txt")) + b"some-text.txt")
    return path


def by_hand(source: Path, kind: str, output: Path, *flags: str | Path) -> bytes:
    """Run llama-quantize itself, as a person would, and return what it wrote."""
    command = [find().tool("llama-quantize"), *flags, source, output, kind, "2"]
    subprocess.run(command, check=True, capture_output=True)
    return output.read_bytes()


def fake_build(folder: Path, misbehave: str) -> Path:
    """Make a llama.cpp build whose llama-quantize plans as the real one does, and then does as `misbehave` says.

    `misbehave` is Python that knows `real` (a command that works), `source` and `output`.
    """
    (folder / "bin").mkdir(parents=True)
    (folder / "lib").mkdir()
    (folder / "lib" / find().library("llama").name).touch()
    tool = folder / "bin" / "llama-quantize"
    tool.write_text(
        f"#!{sys.executable} -S\n"
        "import os, pathlib, shutil, signal, subprocess, sys, time\n"
        f"real = [{str(find().tool('llama-quantize'))!r}, *sys.argv[1:]]\n"
        "if '--dry-run' in real or '--help' in real:\n"
        "    os.execv(real[0], real)\n"
        "source, output = map(pathlib.Path, sys.argv[-4:-2])\n"
        f"{misbehave}\n"
    )
    tool.chmod(0o755)
    return folder


HALF = "subprocess.run(real); os.truncate(output, output.stat().st_size // 2)"
HEADLESS = "subprocess.run(real); output.open('r+b').write(bytes(1000))"
TAIL = "subprocess.run(real); output.open('ab').write(bytes(1000))"
COPY = "shutil.copyfile(source, output)"
NOTHING = "output.write_bytes(b'')"
SEGFAULT = "output.write_bytes(bytes(5000)); os.kill(os.getpid(), signal.SIGSEGV)"
FULL_DISK = "sys.exit(print('llama_model_quantize: failed to quantize: basic_ios::clear: iostream error') or 1)"
FAILURE = "sys.exit(print('llama_model_quantize: failed to quantize: quantized data validation failed') or 1)"
HANG = "output.write_bytes(bytes(5000)); pathlib.Path('hanging').write_text(str(os.getpid())); time.sleep(600)"


def _finish(writer: gguf.GGUFWriter, path: Path) -> Path:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
