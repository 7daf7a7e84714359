"""Safetensors files without reading their data: checked headers, and tensors as ranges of bytes in a file.

The format (huggingface/safetensors, README): an unsigned 64-bit little-endian length, a JSON header of that length,
then the data. `data_offsets` count from the end of the header; together they cover the data without hole or overlap.
"""

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ggufkit.checkpoints.config import read_json_object
from ggufkit.checkpoints.tensors import ELEMENT_SIZES, Shape
from ggufkit.errors import CheckpointError, UnsafeError

INDEX = "model.safetensors.index.json"
_MAXIMUM_HEADER = 100_000_000  # the library's own limit
_AGAIN = "the file is damaged or incomplete: download it again"


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
            self.tensors = self._read_header()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the file; its tensors cannot be read any more."""
        os.close(self._descriptor)

    def read_into(self, buffer: memoryview, position: int) -> None:
        """Fill `buffer` from byte `position` of the file."""
        done = 0
        while done < len(buffer):
            try:
                count = os.preadv(self._descriptor, [buffer[done:]], position + done)
            except OSError as error:
                raise CheckpointError(f"cannot read {self.path}: {error.strerror}") from error
            if count == 0:
                raise CheckpointError(f"{self.path} ends before byte {position + len(buffer):,}", hint=_AGAIN)
            done += count

    def _read_header(self) -> dict[str, SafetensorsTensor]:
        total = os.fstat(self._descriptor).st_size
        if total < 8:
            raise CheckpointError(f"{self.path} holds {total} bytes, not a safetensors file", hint=_AGAIN)
        length = int.from_bytes(os.pread(self._descriptor, 8, 0), "little")
        if length > _MAXIMUM_HEADER or 8 + length > total:
            raise CheckpointError(
                f"{self.path} is no safetensors file, or was cut short: header of {length:,} bytes in {total:,}",
                hint=_AGAIN,
            )
        raw = bytearray(length)
        self.read_into(memoryview(raw), 8)
        header = self._parse(bytes(raw))
        tensors = {
            name: self._tensor(name, entry, data_start=8 + length, data_size=total - 8 - length)
            for name, entry in header.items()
            if name != "__metadata__"
        }
        self._check_cover(tensors, 8 + length, total)
        return tensors

    def _parse(self, raw: bytes) -> dict[str, Any]:
        if not raw.startswith(b"{"):  # the library's rule: leading space could hide another format
            raise CheckpointError(f"{self.path}: the header does not start with '{{'", hint=_AGAIN)
        try:
            header = json.loads(raw.decode("utf-8"), object_pairs_hook=_without_duplicates)
        except RecursionError:
            raise CheckpointError(f"{self.path}: the header is nested too deeply", hint=_AGAIN) from None
        except ValueError as error:
            raise CheckpointError(f"{self.path}: the header is not valid JSON: {error}", hint=_AGAIN) from None
        if not isinstance(header, dict):
            raise CheckpointError(f"{self.path}: the header is no JSON object", hint=_AGAIN)
        metadata = header.get("__metadata__", {})
        if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
            raise CheckpointError(f"{self.path}: __metadata__ is no map of strings", hint=_AGAIN)
        return header

    def _tensor(self, name: str, entry: Any, *, data_start: int, data_size: int) -> SafetensorsTensor:
        where = f"{self.path}: tensor {name!r}"
        if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
            raise CheckpointError(f"{where} needs dtype, shape and data_offsets", hint=_AGAIN)
        dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
        if not isinstance(dtype, str) or dtype not in ELEMENT_SIZES:
            raise CheckpointError(f"{where} has the unknown element type {dtype!r}")
        if not _naturals(shape) or not _naturals(offsets) or len(offsets) != 2:
            raise CheckpointError(f"{where} has shape {shape!r} and offsets {offsets!r}", hint=_AGAIN)
        begin, end = offsets
        size = math.prod(shape) * ELEMENT_SIZES[dtype]
        if not begin <= end <= data_size or end - begin != size:
            raise CheckpointError(
                f"{where} has bytes {begin:,} to {end:,} of {data_size:,}, but its shape needs {size:,}", hint=_AGAIN
            )
        return SafetensorsTensor(name, dtype, tuple(shape), size, data_start + begin, self)

    def _check_cover(self, tensors: Mapping[str, SafetensorsTensor], start: int, end: int) -> None:
        for tensor in sorted(tensors.values(), key=lambda tensor: (tensor.offset, tensor.size)):
            if tensor.offset != start:
                raise CheckpointError(f"{self.path}: a hole or an overlap before tensor {tensor.name!r}", hint=_AGAIN)
            start += tensor.size
        if start != end:
            raise CheckpointError(f"{self.path}: {end - start:,} bytes belong to no tensor", hint=_AGAIN)


def open_safetensors(folder: Path) -> list[SafetensorsFile]:
    """Open a folder's weights: all shards that its index names, else its single file.

    Raises:
        CheckpointError: there are none; a shard is missing or malformed; index and shards disagree.
        UnsafeError: the index names a path outside of the folder.
    """
    index = folder / INDEX
    if index.is_file():
        weight_map = _weight_map(index)
        files = _open_all([_inside(folder, shard, index) for shard in dict.fromkeys(weight_map.values())])
        try:
            _check_index(index, weight_map, files)
        except BaseException:
            close_all(files)
            raise
        return files
    single = folder / "model.safetensors"
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


def _weight_map(index: Path) -> dict[str, str]:
    weight_map = read_json_object(index, limit=_MAXIMUM_HEADER).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map or not all(isinstance(v, str) for v in weight_map.values()):
        raise CheckpointError(f"{index}: weight_map is no map from tensor names to file names", hint=_AGAIN)
    return weight_map


def _inside(folder: Path, shard: str, index: Path) -> Path:
    if not shard or "/" in shard or "\\" in shard or "\0" in shard or shard in (".", "..") or ":" in shard:
        raise UnsafeError(f"{index} names a file outside of its folder: {shard!r}")
    if not shard.isprintable() or len(shard.encode()) > 255:
        raise CheckpointError(f"{index} names a file that cannot be: {shard[:60]!r}", hint=_AGAIN)
    return folder / shard


def _check_index(index: Path, weight_map: Mapping[str, str], files: list[SafetensorsFile]) -> None:
    held: dict[str, str] = {}
    for file in files:
        for name in file.tensors:
            if name in held:
                raise CheckpointError(f"tensor {name!r} is in both {held[name]} and {file.path.name}", hint=_AGAIN)
            held[name] = file.path.name
    for name, shard in weight_map.items():
        if held.get(name) != shard:
            raise CheckpointError(f"{index} says that tensor {name!r} is in {shard}, where it is not", hint=_AGAIN)
    if extra := held.keys() - weight_map.keys():
        raise CheckpointError(f"{index} does not know tensor {min(extra)!r} of {held[min(extra)]}", hint=_AGAIN)


def _naturals(values: Any) -> bool:
    return isinstance(values, list) and all(
        isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63 for value in values
    )


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        raise ValueError("a key stands twice")
    return values
