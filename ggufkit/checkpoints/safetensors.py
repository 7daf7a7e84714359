"""Safetensors files without reading their data: checked headers, and tensors as ranges of bytes in a file.

The format (huggingface/safetensors, README): an unsigned 64-bit little-endian length, a JSON header of that length,
then the data. `data_offsets` count from the end of the header; together they cover the data without hole or overlap.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ggufkit.checkpoints.config import read_json_object
from ggufkit.checkpoints.folder import is_plain_name
from ggufkit.checkpoints.safetensors_header import MAXIMUM_HEADER, foreign_kind, parse_header
from ggufkit.checkpoints.tensors import ELEMENT_SIZES, Shape
from ggufkit.errors import CheckpointError, UnsafeError

INDEX = "model.safetensors.index.json"
_AGAIN = "the file is damaged or incomplete: download it again"
_TOTAL_HINT = "download index and shards of one revision; if the model was published like this, remove total_size"


@dataclass(frozen=True, slots=True)
class SafetensorsTensor:
    """A tensor that lies in a safetensors file: `size` bytes from `offset`, row-major, little-endian."""

    name: str
    dtype: str
    shape: Shape
    size: int
    offset: int
    file: "SafetensorsFile"

    @property
    def position(self) -> tuple[str, int]:
        """File and offset."""
        return str(self.file.path), self.offset

    def read_into(self, buffer: memoryview, start: int = 0) -> None:
        """Fill `buffer` with the tensor's bytes from `start`. A file that shrank meanwhile is a CheckpointError."""
        self.file.read_into(buffer, self.offset + start)


class SafetensorsFile:
    """One open shard. Reads with pread, not mmap: a file cut short under us is an error then, and not a SIGBUS."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise CheckpointError(f"cannot read {path}: {error.strerror}") from error
        try:
            self._opened = _state(self._descriptor)
            self.tensors = self._read_header()
        except BaseException:
            self.close()
            raise

    @property
    def size(self) -> int:
        """The bytes of the whole file."""
        return self._opened[0]

    def close(self) -> None:
        """Close the file; its tensors cannot be read any more."""
        os.close(self._descriptor)

    def read_into(self, buffer: memoryview, position: int) -> None:
        """Fill `buffer` from byte `position` of the file. Raises CheckpointError."""
        done = 0
        while done < len(buffer):
            try:
                count = os.preadv(self._descriptor, [buffer[done:]], position + done)
            except OSError as error:
                raise CheckpointError(f"cannot read {self.path}: {error.strerror}") from error
            if count == 0:
                raise CheckpointError(f"{self.path} ends before byte {position + len(buffer):,}", hint=_AGAIN)
            done += count

    def check_unchanged(self) -> None:
        """Refuse a file that somebody wrote to since it was opened. Raises CheckpointError."""
        if _state(self._descriptor) != self._opened:
            raise CheckpointError(f"{self.path} changed while it was read", hint="wait until it is whole")

    def _read_header(self) -> dict[str, SafetensorsTensor]:
        total = self._opened[0]
        beginning = os.pread(self._descriptor, 512, 0)
        again = f"download {self.path.name} again"
        if kind := foreign_kind(beginning):
            raise CheckpointError(f"{self.path} is {kind}, not the weights", hint=again)
        if total < 8:
            raise CheckpointError(f"{self.path} holds {total} bytes, not a safetensors file", hint=again)
        length = int.from_bytes(beginning[:8], "little")
        if length > MAXIMUM_HEADER or 8 + length > total:
            raise CheckpointError(
                f"{self.path} is no safetensors file, or was cut short: header of {length:,} bytes in {total:,}",
                hint=again,
            )
        raw = bytearray(length)
        self.read_into(memoryview(raw), 8)
        try:
            header = parse_header(raw)
        except ValueError as error:
            raise CheckpointError(f"{self.path}: {error}", hint=again) from None
        tensors = {
            name: self._tensor(name, entry, data_start=8 + length, data_size=total - 8 - length)
            for name, entry in header.items()
            if name != "__metadata__"
        }
        self._check_cover(tensors, 8 + length, total)
        return tensors

    def _tensor(self, name: str, entry: Any, *, data_start: int, data_size: int) -> SafetensorsTensor:
        where, again = f"{self.path}: tensor {name[:200]!r}", f"download {self.path.name} again"
        if not isinstance(entry, dict) or not entry.keys() >= {"dtype", "shape", "data_offsets"}:
            raise CheckpointError(f"{where} needs dtype, shape and data_offsets", hint=again)
        dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
        if not isinstance(dtype, str) or dtype not in ELEMENT_SIZES:
            raise CheckpointError(f"{where} has the unknown element type {dtype!r:.60}")
        if not _naturals(shape) or not _naturals(offsets) or len(offsets) != 2:
            raise CheckpointError(f"{where} has shape {shape!r:.200} and offsets {offsets!r:.200}", hint=again)
        begin, end = offsets
        size = _elements(shape) * ELEMENT_SIZES[dtype]
        if not begin <= end <= data_size or end - begin != size:
            raise CheckpointError(
                f"{where} has bytes {begin:,} to {end:,} of {data_size:,}, but its shape needs {size:,}", hint=again
            )
        return SafetensorsTensor(name, dtype, tuple(shape), size, data_start + begin, self)

    def _check_cover(self, tensors: Mapping[str, SafetensorsTensor], start: int, end: int) -> None:
        again = f"download {self.path.name} again"
        for tensor in sorted(tensors.values(), key=lambda tensor: (tensor.offset, tensor.size)):
            if tensor.offset != start:
                raise CheckpointError(
                    f"{self.path}: a hole or an overlap before tensor {tensor.name[:200]!r}", hint=again
                )
            start += tensor.size
        if start != end:
            raise CheckpointError(f"{self.path}: {end - start:,} bytes belong to no tensor", hint=again)


def open_safetensors(folder: Path) -> list[SafetensorsFile]:
    """Open a folder's weights: all shards that its index names, else its single file.

    Raises:
        CheckpointError: there are none; a shard is missing or malformed; index and shards disagree.
        UnsafeError: the index names a path outside of the folder.
    """
    index, single = folder / INDEX, folder / "model.safetensors"
    if index.is_file():
        content = read_json_object(index, limit=MAXIMUM_HEADER)
        weight_map = _weight_map(index, content)
        shards = [_inside(folder, shard, index) for shard in dict.fromkeys(weight_map.values())]
        if single.is_file() and not any(shard.is_file() for shard in shards):
            return _open_all([single])  # what a model was saved over left its index; transformers does not look at it
        files = _open_all(shards)
        try:
            _check_index(index, weight_map, files)
            _check_total(index, content, files)
        except BaseException:
            close_all(files)
            raise
        return files
    if single.is_file():
        return _open_all([single])
    found = sorted(folder.glob("*.safetensors"))
    if len(found) != 1:
        message = "no weights (model.safetensors)" if not found else f"{len(found)} safetensors files and no {INDEX}"
        raise CheckpointError(f"{message} in {folder}", hint="download the whole repository of the model")
    return _open_all(found)


def close_all(files: list[SafetensorsFile]) -> None:
    """Close every file of a list."""
    for file in files:
        file.close()


def _open_all(paths: list[Path]) -> list[SafetensorsFile]:
    files: list[SafetensorsFile] = []
    try:
        for path in paths:
            if not path.is_file():
                raise CheckpointError(f"a shard is missing: {path}", hint=f"download {path.name} again")
            files.append(SafetensorsFile(path))
    except BaseException:
        close_all(files)
        raise
    return files


def _weight_map(index: Path, content: Mapping[str, Any]) -> dict[str, str]:
    weight_map = content.get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map or not all(isinstance(v, str) for v in weight_map.values()):
        raise CheckpointError(f"{index}: weight_map is no map from tensor names to file names", hint=_AGAIN)
    return weight_map


def _inside(folder: Path, shard: str, index: Path) -> Path:
    if not is_plain_name(shard):
        raise UnsafeError(f"{index} names a file outside of its folder: {shard!r:.200}")
    if not shard.isprintable() or len(shard.encode()) > 255 or not shard.endswith(".safetensors"):
        raise CheckpointError(f"{index} names a file that cannot be: {shard[:60]!r}", hint=_AGAIN)
    return folder / shard


def _check_index(index: Path, weight_map: Mapping[str, str], files: list[SafetensorsFile]) -> None:
    held: dict[str, str] = {}
    for file in files:
        for name in file.tensors:
            if name in held:
                raise CheckpointError(
                    f"tensor {name[:200]!r} is in both {held[name]} and {file.path.name}", hint=_AGAIN
                )
            held[name] = file.path.name
    for name, shard in weight_map.items():
        if held.get(name) != shard:
            raise CheckpointError(
                f"{index} says that tensor {name[:200]!r} is in {shard}, where it is not", hint=_AGAIN
            )
    if extra := held.keys() - weight_map.keys():
        raise CheckpointError(f"{index} does not know tensor {min(extra)[:200]!r} of {held[min(extra)]}", hint=_AGAIN)


def _check_total(index: Path, content: Mapping[str, Any], files: list[SafetensorsFile]) -> None:
    """Compare `metadata.total_size` with the shards.

    It is the bytes of all tensors, where transformers wrote it (which counted eight booleans as one byte for a while);
    others counted the bytes of the files.
    """
    metadata = content.get("metadata") or {}
    total = metadata.get("total_size") if isinstance(metadata, dict) else None
    if total is None:
        return
    if isinstance(total, bool) or not isinstance(total, int | float):
        raise CheckpointError(f"{index}: total_size is {total!r:.60}, expected a number of bytes", hint=_AGAIN)
    tensors = [tensor for file in files for tensor in file.tensors.values()]
    size = sum(tensor.size for tensor in tensors)
    least = size - sum(tensor.size for tensor in tensors if tensor.dtype == "BOOL") * 7 // 8
    if not least <= total <= sum(file.size for file in files):
        raise CheckpointError(
            f"{index}: total_size is {total:,}, but the tensors of the {len(files)} shards have {size:,} bytes",
            hint=_TOTAL_HINT,
        )


def _naturals(values: Any) -> bool:
    return isinstance(values, list) and all(
        isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63 for value in values
    )


def _elements(shape: list[int]) -> int:
    """Multiply as the library does, from the left and within 64 bits: a size that overflows is none."""
    count = 1
    for axis in shape:
        count *= axis
        if count >= 2**64:
            return count
    return count


def _state(descriptor: int) -> tuple[int, int]:
    status = os.fstat(descriptor)
    return status.st_size, status.st_mtime_ns
