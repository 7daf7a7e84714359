"""Merge a PEFT adapter into a checkpoint: the same shards with the same headers, and changed weights in them."""

import hashlib
import json
import shutil
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from gguf import GGMLQuantizationType

from ggufkit.checkpoints import StoredTensor, read_config
from ggufkit.checkpoints.fingerprint import fingerprint
from ggufkit.checkpoints.safetensors import SafetensorsFile, SafetensorsTensor, close_all, open_safetensors
from ggufkit.conversion.adapters.added import Added
from ggufkit.conversion.adapters.convert import check_shapes, match_changes
from ggufkit.conversion.adapters.peft import LowRank, open_adapter, read
from ggufkit.conversion.description import own_version
from ggufkit.conversion.elements import STORED, encode, to_float32
from ggufkit.errors import CheckpointError, OutputError, UsageError
from ggufkit.files import atomic_folder, tidy
from ggufkit.progress import Progress, silent

RECORD = "ggufkit_merge.json"
_STAGE = "Merging"
_PIECE = 1 << 24
_FLOATS = {"F32", "F16", "BF16", "F64"}


@dataclass(frozen=True, slots=True)
class MergeResult:
    """What a merge did; `bytes` is the size of the weights that were written."""

    base: Path
    adapter: Path
    output: Path
    merged: int
    replaced: int
    tensors: int
    bytes: int
    seconds: float
    warnings: tuple[str, ...] = ()


def merge_into_checkpoint(base: Path, adapter: Path, output: Path, *, progress: Progress = silent) -> MergeResult:
    """Write the checkpoint folder `output`: `base` with the PEFT adapter folder `adapter` added to its weights.

    W + scale x B @ A is summed in float64 and rounded once, to the type that W has. Whole tensors of the adapter
    (modules_to_save) take the place of the base's. The folder is whole or absent afterwards; what was merged is
    recorded in its `ggufkit_merge.json`.

    Raises:
        CheckpointError: base or adapter are malformed, or do not go together.
        OutputError, UsageError: the output exists, or cannot be written.
    """
    started = time.monotonic()
    if read_config(base).get("quantization_config"):
        raise CheckpointError(f"{base}: the weights are quantized; an adapter is merged into the original ones")
    files = open_safetensors(base)
    try:
        stored = {name: tensor for file in files for name, tensor in file.tensors.items()}
        with open_adapter(adapter) as opened:
            matched = match_changes([*opened.changes, *opened.whole], stored)
            check_shapes(opened, matched, {name: tensor.shape for name, tensor in stored.items()})
            changes = {matched[name]: change for name, change in opened.changes.items()}
            whole = {matched[name]: tensor for name, tensor in opened.whole.items()}
            _check(stored, changes, whole)
            _check_output(output, base)
            with atomic_folder(output, size=sum(file.path.stat().st_size for file in files)) as folder:
                done, total = 0, sum(tensor.size for tensor in stored.values())
                for file in files:
                    for size in _write_shard(file, folder / file.path.name, changes, whole):
                        done += size
                        progress(_STAGE, done, total)
                _copy_the_rest(base, folder)
                _record(folder, base, adapter)
            return MergeResult(
                base=base,
                adapter=adapter,
                output=output,
                merged=len(changes),
                replaced=len(whole),
                tensors=len(stored),
                bytes=total,
                seconds=time.monotonic() - started,
            )
    finally:
        close_all(files)


def added(change: LowRank) -> Added:
    """Read the factors of a change, as the stored weight's rows need them."""
    a, b = change.factors()
    return Added(a.T, b.T, change.scale) if change.transposed else Added(b, a, change.scale)


def _check(
    stored: Mapping[str, StoredTensor], changes: Mapping[str, LowRank], whole: Mapping[str, StoredTensor]
) -> None:
    for name in (*changes, *whole):
        if stored[name].dtype not in _FLOATS:
            raise CheckpointError(f"tensor {name!r} is of type {stored[name].dtype}, expected a float type")
    for name, tensor in whole.items():
        if tensor.shape != stored[name].shape:
            raise CheckpointError(
                f"the adapter replaces {name!r}, of shape {stored[name].shape}, by a tensor of shape {tensor.shape}",
                hint="were tokens added? resize the base's embeddings in transformers first, as in training",
            )


def _write_shard(
    file: SafetensorsFile, path: Path, changes: Mapping[str, LowRank], whole: Mapping[str, StoredTensor]
) -> Iterator[int]:
    """Write one shard, tensor after tensor as they lie in the base's; yield the bytes of each piece."""
    tensors = sorted(file.tensors.values(), key=lambda tensor: tensor.offset)
    with path.open("wb") as out:
        header = bytearray(min((tensor.offset for tensor in tensors), default=file.path.stat().st_size))
        file.read_into(memoryview(header), 0)
        out.write(header)
        for tensor in tensors:
            if change := changes.get(tensor.name):
                pieces = _merged(tensor, added(change))
            elif replacement := whole.get(tensor.name):
                pieces = iter([_encoded(read(replacement).reshape(-1), tensor.dtype)])
            else:
                pieces = _copied(tensor)
            for piece in pieces:
                out.write(piece)
                yield len(piece)


def _copied(tensor: SafetensorsTensor) -> Iterator[bytes | bytearray]:
    for start in range(0, tensor.size, _PIECE):
        buffer = bytearray(min(_PIECE, tensor.size - start))
        tensor.read_into(memoryview(buffer), start)
        yield buffer


def _merged(tensor: SafetensorsTensor, change: Added) -> Iterator[bytes | bytearray]:
    rows, columns = tensor.shape
    kind = STORED[tensor.dtype]
    for start in range(0, rows, change.rows_at_once):
        count = min(change.rows_at_once, rows - start)
        piece = np.empty(count * columns, kind)
        tensor.read_into(piece.view(np.uint8).data, start * columns * kind.itemsize)
        weights = to_float32(piece, tensor.dtype).reshape(count, columns)
        yield _encoded(change.to_rows(weights, start).reshape(-1), tensor.dtype)


def _encoded(weights: "np.ndarray[tuple[int, ...], np.dtype[np.float32]]", dtype: str) -> bytes:
    if dtype == "F64":
        return weights.astype("<f8").tobytes()
    return encode(weights, "F32", GGMLQuantizationType[dtype], weights.size).tobytes()


def _check_output(output: Path, base: Path) -> None:
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        tidy(output)
        raise OutputError(f"the output exists: {output}", hint="remove it, or name another with -o")
    if base.resolve() in output.resolve().parents:
        raise UsageError(f"the output {output} lies in the base {base}")
    parent = output.resolve().parent
    if not parent.is_dir():
        raise OutputError(f"no such folder: {parent}", hint=f"mkdir -p {parent}")


def _copy_the_rest(base: Path, folder: Path) -> None:
    """Copy config, tokenizer, card: every small file that holds no weights of another form, or a merge's record."""
    for path in sorted(base.iterdir()):
        if path.is_file() and not path.name.startswith(".") and path.name != RECORD and not _holds_weights(path):
            shutil.copyfile(path, folder / path.name)


def _holds_weights(path: Path) -> bool:
    return path.suffix in {".safetensors", ".bin", ".pt", ".pth", ".gguf", ".h5", ".msgpack", ".onnx"}


def _record(folder: Path, base: Path, adapter: Path) -> None:
    digest = hashlib.sha256()
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        with (adapter / name).open("rb") as file:
            while block := file.read(_PIECE):
                digest.update(block)
    record = {
        "ggufkit_version": own_version(),
        "base_fingerprint": fingerprint(base),
        "adapter_sha256": digest.hexdigest(),
    }
    (folder / RECORD).write_text(json.dumps(record, indent=2) + "\n")
