"""Legacy `pytorch_model*.bin` weights: pickles, read by torch with code execution switched off."""

import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ggufkit.checkpoints.config import read_json_object
from ggufkit.checkpoints.folder import is_plain_name
from ggufkit.checkpoints.safetensors_header import MAXIMUM_HEADER, foreign_kind
from ggufkit.checkpoints.tensors import ELEMENT_SIZES, Shape
from ggufkit.checkpoints.torch_zip import MappedFile, check_archive
from ggufkit.checkpoints.torchao_pickles import flattened, stand_ins
from ggufkit.errors import CheckpointError, MissingDependencyError, UnsafeError

if TYPE_CHECKING:
    from torch import Tensor

_INDEX, _SINGLE = "pytorch_model.bin.index.json", "pytorch_model.bin"
_DTYPES = {
    "torch.float64": "F64",
    "torch.float32": "F32",
    "torch.float16": "F16",
    "torch.bfloat16": "BF16",
    "torch.int64": "I64",
    "torch.int32": "I32",
    "torch.int16": "I16",
    "torch.int8": "I8",
    "torch.uint8": "U8",
    "torch.bool": "BOOL",
}


@dataclass(frozen=True, slots=True)
class TorchTensor:
    """A tensor of a `.bin` file, which torch has mapped or holds; mapped ones are read from `file`, not from memory."""

    name: str
    dtype: str
    shape: Shape
    size: int
    file: "TorchFile"
    tensor: "Tensor"

    @property
    def position(self) -> tuple[str, int]:
        """File and place in memory, which torch maps in the order of the file."""
        return str(self.file.path), self.tensor.data_ptr()

    def read_into(self, buffer: memoryview, start: int = 0) -> None:
        """Fill `buffer` with the tensor's row-major bytes from `start`. CheckpointError when the file was cut short."""
        if not len(buffer):
            return
        import torch

        place = self.file.offset(self.tensor.data_ptr())
        if place is not None and self.tensor.is_contiguous():
            self.file.read_into(buffer, place + start)
            return
        whole = self.tensor
        if place is not None:
            whole = self._copy(place)
        raw = whole.contiguous().reshape(-1).view(torch.uint8)
        buffer[:] = memoryview(raw[start : start + len(buffer)].numpy()).cast("B")

    def _copy(self, place: int) -> "Tensor":
        """Read a tensor whose elements lie in another order than its rows."""
        import torch

        width = self.tensor.element_size()
        last = sum((size - 1) * stride for size, stride in zip(self.shape, self.tensor.stride(), strict=True))
        held = bytearray((last + 1) * width)
        self.file.read_into(memoryview(held), place)
        return torch.frombuffer(held, dtype=self.tensor.dtype).as_strided(self.shape, self.tensor.stride())


class TorchFile:
    """One `.bin` file, open for reading beside torch's own mapping of it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise CheckpointError(f"cannot read {path}: {error.strerror}") from error
        self._opened = self._state()
        self._mapped = MappedFile(path)

    def offset(self, address: int) -> int | None:
        """Tell at which byte of the file an address of torch's lies; None when torch holds a copy."""
        return self._mapped.offset(address)

    def read_into(self, buffer: memoryview, position: int) -> None:
        """Fill `buffer` from byte `position`. Raises CheckpointError when the file ends before."""
        done = 0
        while done < len(buffer):
            try:
                count = os.preadv(self._descriptor, [buffer[done:]], position + done)
            except OSError as error:
                raise CheckpointError(f"cannot read {self.path}: {error.strerror}") from error
            if count == 0:
                raise CheckpointError(f"{self.path} was cut short while it was read", hint=_again(self.path))
            done += count

    def check_unchanged(self) -> None:
        """Refuse a file that somebody wrote to since it was opened. Raises CheckpointError."""
        if self._state() != self._opened:
            raise CheckpointError(f"{self.path} changed while it was read", hint="wait until it is whole")

    def close(self) -> None:
        """Close the file; its tensors cannot be read any more."""
        os.close(self._descriptor)

    def _state(self) -> tuple[int, int]:
        status = os.fstat(self._descriptor)
        return status.st_size, status.st_mtime_ns


def has_bin(folder: Path) -> bool:
    """Tell whether the folder holds weights as `.bin`."""
    return (folder / _INDEX).is_file() or (folder / _SINGLE).is_file()


@contextmanager
def open_bin(folder: Path) -> Iterator[tuple[dict[str, TorchTensor], list[TorchFile]]]:
    """Map a folder's `.bin` weights; nothing that is pickled in them is ever executed.

    Raises:
        MissingDependencyError: torch is not installed.
        CheckpointError: a shard is missing or cannot be read; index and shards disagree.
        UnsafeError: a shard pickles more than tensors, or the index names a file outside of the folder.
    """
    tensors: dict[str, TorchTensor] = {}
    weight_map = _weight_map(folder)
    with ExitStack() as stack:
        files = []
        for path in [folder / name for name in dict.fromkeys(weight_map.values())] or [folder / _SINGLE]:
            file = TorchFile(path)
            stack.callback(file.close)
            files.append(file)
            for name, tensor in (part for item in _load(path).items() for part in flattened(*item)):
                if name in tensors:
                    raise CheckpointError(f"tensor {name!r} is in both {tensors[name].file.path.name} and {path.name}")
                tensors[name] = _checked(file, name, tensor)
        _check_index(folder / _INDEX, weight_map, tensors)
        yield tensors, files


def _checked(file: TorchFile, name: str, tensor: "Tensor") -> TorchTensor:
    """Refuse tensors that are more than rows of numbers in the file."""
    import torch

    where = f"{file.path}: tensor {name[:200]!r}"
    dtype = _DTYPES.get(str(tensor.dtype))
    if dtype is None:
        raise CheckpointError(f"{where} has the unsupported type {tensor.dtype}")
    if tensor.layout is not torch.strided or tensor.device.type != "cpu":
        raise CheckpointError(f"{where} is no plain tensor: {tensor.layout}, on {tensor.device}")
    size = tensor.numel() * ELEMENT_SIZES[dtype]
    if size > tensor.untyped_storage().nbytes():  # a few stored numbers, repeated as often as the shape wants
        raise CheckpointError(f"{where} of shape {tuple(tensor.shape)} is larger than what is stored of it")
    return TorchTensor(name, dtype, tuple(tensor.shape), size, file, tensor)


def _weight_map(folder: Path) -> dict[str, str]:
    """Read which shard holds which tensor; empty for a folder whose weights are one file."""
    index = folder / _INDEX
    if not index.is_file():
        return {}
    weight_map = read_json_object(index, limit=MAXIMUM_HEADER).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map or not all(isinstance(v, str) for v in weight_map.values()):
        raise CheckpointError(f"{index}: weight_map is no map from tensor names to file names", hint=_again(index))
    for name in dict.fromkeys(weight_map.values()):
        if not is_plain_name(name):
            raise UnsafeError(f"{index} names a file outside of its folder: {name!r:.200}")
        if not name.endswith(".bin"):
            raise CheckpointError(f"{index} names a file that cannot be: {name!r:.60}", hint=_again(index))
        if not (folder / name).is_file():
            raise CheckpointError(f"a shard is missing: {folder / name}", hint=f"download {name} again")
    return weight_map


def _check_index(index: Path, weight_map: Mapping[str, str], tensors: Mapping[str, TorchTensor]) -> None:
    """Refuse an index that says otherwise than the shards; what torchao pickled has other names than the index."""
    held = {tensor.file.path.name for tensor in tensors.values()}
    if empty := next((shard for shard in weight_map.values() if shard not in held), None):
        raise CheckpointError(f"{index} names {empty}, which holds no tensors", hint=f"download {empty} again")
    for name, shard in weight_map.items():
        if name in tensors and tensors[name].file.path.name != shard:
            raise CheckpointError(
                f"{index} says that tensor {name!r} is in {shard}, where it is not", hint=f"download {shard} again"
            )
    known = {tensor.name for tensor in tensors.values() if tensor.name in weight_map}
    if (missing := weight_map.keys() - known) and len(known) == len(tensors):
        name = min(missing)
        raise CheckpointError(
            f"{index} says that tensor {name!r} is in {weight_map[name]}, where it is not",
            hint=f"download {weight_map[name]} again",
        )


def _load(path: Path) -> "dict[str, Tensor]":
    try:
        import torch
    except ImportError:
        raise MissingDependencyError(
            f"reading {path.name} needs torch, which is not installed", hint="pip install 'ggufkit[hf]'"
        ) from None
    from pickle import UnpicklingError
    from zipfile import is_zipfile

    with path.open("rb") as opened:
        beginning = opened.read(512)
    if kind := foreign_kind(beginning):
        raise CheckpointError(f"{path} is {kind}, not the weights", hint=_again(path))
    archived = is_zipfile(path)
    if archived:
        check_archive(path)
    try:
        # torch maps only its zip format; before version 1.6 a checkpoint was a bare pickle, which is read whole.
        with stand_ins(path) if archived else nullcontext(), warnings.catch_warnings(action="ignore"):
            state = torch.load(path, map_location="cpu", weights_only=True, mmap=archived)
    except UnpicklingError as error:
        raise UnsafeError(f"{path} pickles more than tensors, or is damaged: {_first_line(error)}") from None
    except Exception as error:  # noqa: BLE001 - torch lets out whatever a damaged file makes of its unpickler
        raise CheckpointError(f"cannot read {path}: {_first_line(error)}", hint=_again(path)) from None
    if not isinstance(state, dict) or not all(
        isinstance(name, str) and isinstance(value, torch.Tensor) for name, value in state.items()
    ):
        raise CheckpointError(f"{path} holds no map from names to tensors")
    return state


def _again(path: Path) -> str:
    return f"download {path.name} again"


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
