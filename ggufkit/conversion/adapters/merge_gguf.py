"""Merge a GGUF adapter into a GGUF model: a copy of the file in which some tensors of F32, F16 or BF16 differ."""

import math
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGMLQuantizationType
from numpy.typing import NDArray

from ggufkit.conversion.adapters.added import Added
from ggufkit.conversion.adapters.convert import BASE_FINGERPRINT
from ggufkit.conversion.adapters.merge_checkpoint import MergeResult
from ggufkit.conversion.description import SOURCE_FINGERPRINT
from ggufkit.conversion.elements import encode
from ggufkit.errors import CheckpointError, GgufFileError
from ggufkit.files import atomic_output, check_output
from ggufkit.gguf_file.parts import read_parts
from ggufkit.gguf_file.reader import GgufHeader, TensorInfo, ValueType, read_header, tensor_bytes
from ggufkit.gguf_file.rewrite import rewrite
from ggufkit.gguf_file.tensor_types import TensorType
from ggufkit.llamacpp.dequantize import dequantize
from ggufkit.progress import Progress, silent

Array = NDArray[Any]

MERGED_ADAPTER = "ggufkit.merged_adapter"
_STAGE = "Merging"
_PLAIN = {TensorType.F32, TensorType.F16, TensorType.BF16}
_PIECE = 1 << 24


def merge_into_gguf(
    base: Path, adapter: Path, output: Path, *, other_base: bool = False, progress: Progress = silent
) -> MergeResult:
    """Write the GGUF file `output`: the model `base` with the GGUF adapter `adapter` added to its tensors.

    The sum is rounded once, to the type that the tensor has. A base that is known to be another one than the adapter
    was made for is refused, unless `other_base`.

    Raises:
        GgufFileError: a file is malformed, or a tensor to be changed is quantized.
        CheckpointError: the adapter does not fit the base.
        OutputError, UsageError: the output cannot or must not be written.
    """
    started = time.monotonic()
    check_output(output, inputs=[base, adapter])
    parts = read_parts(base)
    if len(parts) > 1:
        raise GgufFileError(
            f"{base} is split into {len(parts)} files", hint="llama-gguf-split --merge makes one of them"
        )
    [model] = parts
    factors = read_header(adapter)
    warnings = _check_identity(model, factors, other_base=other_base)
    changes = read_adapter(factors)
    _check(model, changes)
    name = str(factors.metadata.get("general.name", adapter.stem))
    new = rewrite(
        model,
        then=[(MERGED_ADAPTER, ValueType.STRING, name)],
        tensors=[(tensor.name, tensor.shape, tensor.type) for tensor in model.tensors],
    )
    done, total = 0, model.tensor_bytes
    with atomic_output(output, size=new.size) as temporary, temporary.open("r+b") as out:
        out.write(new.header)
        for old, placed in zip(model.tensors, new.tensors, strict=True):
            out.seek(placed.offset)
            with tensor_bytes(model, old) as data:
                stored = np.frombuffer(data, np.uint8)
                change = changes.get(old.name)
                for piece in _merged(stored, old, change) if change else _copied(stored):
                    out.write(piece)
                    done += len(piece)
                    progress(_STAGE, done, total)
                del stored
        out.truncate(new.size)
        out.flush()
        os.fsync(out.fileno())
    return MergeResult(
        base=base,
        adapter=adapter,
        output=output,
        merged=len(changes),
        replaced=0,
        tensors=len(model.tensors),
        bytes=new.size,
        seconds=time.monotonic() - started,
        warnings=warnings,
    )


def read_adapter(header: GgufHeader) -> dict[str, Added]:
    """Read a GGUF adapter: what it adds to which tensor, as the rows of the tensor need it.

    Raises:
        GgufFileError: the file is no LoRA adapter, or half of a pair is missing.
    """
    values = header.metadata
    if values.get("general.type") != "adapter" or values.get("adapter.type") != "lora":
        raise GgufFileError(f"{header.path} is no LoRA adapter", hint="ggufkit convert-lora makes one of PEFT's")
    alpha = values.get("adapter.lora.alpha", 0.0)
    if not isinstance(alpha, int | float) or not math.isfinite(alpha):
        raise GgufFileError(f"{header.path}: adapter.lora.alpha is {alpha!r}, expected a number")
    tensors = {tensor.name: tensor for tensor in header.tensors}
    changes = {}
    for name, info in tensors.items():
        if not name.endswith(".lora_a"):
            continue
        target = name.removesuffix(".lora_a")
        if f"{target}.lora_b" not in tensors:
            raise GgufFileError(f"{header.path}: {name} has no counterpart {target}.lora_b")
        a, b = _read(header, info), _read(header, tensors[f"{target}.lora_b"])
        rank = b.shape[-1]
        scale = alpha / rank if alpha else 1.0
        if target == "token_embd.weight":  # A is stored as rows x rank there, so that rows can be looked up
            changes[target] = Added(a, b.T, scale)
        elif a.shape[-2] != rank:
            raise GgufFileError(f"{header.path}: {target} has factors of shapes {a.shape} and {b.shape}")
        else:
            changes[target] = Added(b, a, scale)
    if not changes:
        raise GgufFileError(f"{header.path} holds no LoRA factors")
    return changes


def _check_identity(model: GgufHeader, adapter: GgufHeader, *, other_base: bool) -> tuple[str, ...]:
    """Compare architectures, and fingerprints where both files have one."""
    key = "general.architecture"
    if model.metadata.get(key) != adapter.metadata.get(key):
        raise CheckpointError(
            f"{adapter.path} is for {adapter.metadata.get(key)}, but {model.path} is {model.metadata.get(key)}"
        )
    made_of, made_for = model.metadata.get(SOURCE_FINGERPRINT), adapter.metadata.get(BASE_FINGERPRINT)
    if made_of is None or made_for is None:
        return (
            "the files do not tell whether the adapter was made for this base: only names and shapes were compared",
        )
    if made_of == made_for:
        return ()
    if not other_base:
        raise CheckpointError(
            f"{adapter.path} was made for another base than {model.path}: {made_for} and not {made_of}",
            hint="--other-base merges it all the same",
        )
    return (f"{adapter.path} was made for another base",)


def _check(model: GgufHeader, changes: Mapping[str, Added]) -> None:
    tensors = {tensor.name: tensor for tensor in model.tensors}
    for name, change in changes.items():
        info = tensors.get(name)
        if info is None:
            raise CheckpointError(f"the adapter changes {name}, which {model.path} has not")
        if tuple(reversed(info.shape)) != change.shape:
            raise CheckpointError(
                f"the adapter changes {name} of shape {change.shape}, the model's is {tuple(reversed(info.shape))}"
            )
        if info.type not in _PLAIN:
            raise GgufFileError(
                f"{model.path}: {name} is quantized ({info.type.name}); adding to it would quantize it twice",
                hint="merge into the F16 file, and quantize the result",
            )


def _read(header: GgufHeader, info: TensorInfo) -> Array:
    with tensor_bytes(header, info) as data:
        values = dequantize(np.frombuffer(data, np.uint8).copy(), int(info.type), info.elements)
    return values.reshape(tuple(reversed(info.shape)))


def _copied(stored: Array) -> Iterator[bytes]:
    for start in range(0, stored.size, _PIECE):
        yield stored[start : start + _PIECE].tobytes()


def _merged(stored: Array, info: TensorInfo, change: Added) -> Iterator[bytes]:
    columns = info.shape[0]
    width = columns * info.type.block_bytes
    for start in range(0, change.rows, change.rows_at_once):
        count = min(change.rows_at_once, change.rows - start)
        piece = stored[start * width : (start + count) * width].copy()
        weights = dequantize(piece, int(info.type), count * columns).reshape(count, columns)
        result = change.to_rows(weights, start).reshape(-1)
        yield encode(result, "F32", GGMLQuantizationType(info.type), columns).tobytes()
