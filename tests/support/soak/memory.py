"""Rows about memory and time: converting a model of large tensors, and looking at one with a huge vocabulary."""

import subprocess
import sys
from pathlib import Path

import gguf
import handmade_checkpoint
import numpy as np
import tiny_model

from soak import Row, Trial

_MEBIBYTE = 2**20
_HIDDEN, _WIDE = 2048, 16384
_VOCABULARY = 262_144


# Its own memory counts as its child's until that becomes another program: so it is a small one.
_SMALL = (
    "import resource, subprocess, sys; done = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL, "
    "stderr=subprocess.DEVNULL); used = resource.getrusage(resource.RUSAGE_CHILDREN); "
    "print(done.returncode, used.ru_utime + used.ru_stime, used.ru_maxrss)"
)


def _run(*arguments: str | Path) -> tuple[int, float, int]:
    """Run the command; returns its exit code, seconds of computing, and the largest memory of a process in bytes."""
    command = [sys.executable, "-c", "from ggufkit.cli import main; main()", *map(str, arguments)]
    done = subprocess.run([sys.executable, "-S", "-c", _SMALL, *command], stdout=subprocess.PIPE, text=True, check=True)
    code, seconds, kilobytes = done.stdout.split()
    return int(code), float(seconds), int(kilobytes) * 1024


def converting(trial: Trial) -> None:
    weights = {name: tensor[:1] for name, tensor in handmade_checkpoint.tensors().items()}
    half = np.float16
    head = _HIDDEN // 4
    shapes = {"q": (_HIDDEN, _HIDDEN), "k": (2 * head, _HIDDEN), "v": (2 * head, _HIDDEN), "o": (_HIDDEN, _HIDDEN)}
    for name in weights:
        if "_proj" in name and "attn" in name:
            shape: tuple[int, ...] = shapes[name.split(".")[-2][0]]
        elif "mlp" in name:
            shape = (_HIDDEN, _WIDE) if "down" in name else (_WIDE, _HIDDEN)
        else:
            shape = (_HIDDEN,) if "norm" in name else (handmade_checkpoint.VOCABULARY, _HIDDEN)
        weights[name] = np.ones(shape, half)
    source = handmade_checkpoint.write(
        trial.folder / "large", weights, hidden_size=_HIDDEN, intermediate_size=_WIDE, torch_dtype="float16"
    )
    largest = _HIDDEN * _WIDE
    for case in trial.cases():
        kind, size = (("f16", 2), ("f32", 4), ("q8_0", 1))[case]
        code, _, peak = _run("convert", source, "--outtype", kind, "-o", trial.folder / "large.gguf")
        if code:
            trial.broken(case, f"exit {code}")
        allowed = 1.5 * largest * (size + 4) + 300 * _MEBIBYTE
        trial.worst(f"MiB for {kind}", peak / _MEBIBYTE, limit=allowed / _MEBIBYTE)


def inspecting(trial: Trial) -> None:
    model = trial.folder / "huge.gguf"
    writer = gguf.GGUFWriter(model, "llama")
    reader = gguf.GGUFReader(tiny_model.write(trial.folder / "tiny.gguf"))
    tokens, merges = [f"token{number}" for number in range(_VOCABULARY)], ["a b"] * _VOCABULARY
    for add in (writer.add_context_length, writer.add_embedding_length, writer.add_block_count, writer.add_head_count):
        add(1 if add == writer.add_block_count else 64)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types([1] * _VOCABULARY)
    writer.add_token_merges(merges)
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, np.array(tensor.data))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    for case in trial.cases():
        code, seconds, peak = _run("inspect", model)
        if code:
            trial.broken(case, f"exit {code}")
        trial.took("seconds of computing", seconds, limit=1)
        trial.worst("MiB", peak / _MEBIBYTE, limit=200)


ROWS = [
    Row(
        "convert-memory",
        "convert: peak RSS",
        "<= 1.5x largest tensor (in its target type and F32) + 300 MiB",
        converting,
        count=3,
        quick=1,
    ),
    Row("huge-vocabulary", "inspect of a GGUF file with 262k tokens", "< 1 s, < 200 MiB", inspecting, count=5, quick=1),
]
