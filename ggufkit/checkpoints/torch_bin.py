"""Legacy `pytorch_model*.bin` weights: pickles, read by torch with code execution switched off."""

from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ggufkit.checkpoints.config import read_json_object
from ggufkit.checkpoints.tensors import ELEMENT_SIZES, Shape
from ggufkit.checkpoints.torchao_pickles import flattened, stand_ins
from ggufkit.errors import CheckpointError, MissingDependencyError, UnsafeError

if TYPE_CHECKING:
    from torch import Tensor

_INDEX = "pytorch_model.bin.index.json"
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
    """A tensor that torch maps from a `.bin` file."""

    name: str
    dtype: str
    shape: Shape
    size: int
    path: Path
    tensor: "Tensor"

    @property
    def position(self) -> tuple[str, int]:
        """File and place in memory, which torch maps in the order of the file."""
        return str(self.path), self.tensor.data_ptr()

    def read_into(self, buffer: memoryview, start: int = 0) -> None:
        """Fill `buffer` with the tensor's row-major bytes from `start`."""
        import torch

        contiguous = self.tensor.contiguous().reshape(-1)
        raw = contiguous.view(torch.uint8) if contiguous.numel() else contiguous.to(torch.uint8)
        buffer[:] = memoryview(raw[start : start + len(buffer)].numpy()).cast("B")


def has_bin(folder: Path) -> bool:
    """Tell whether the folder holds weights as `.bin`."""
    return (folder / _INDEX).is_file() or (folder / "pytorch_model.bin").is_file()


def open_bin(folder: Path) -> dict[str, TorchTensor]:
    """Map a folder's `.bin` weights; nothing that is pickled in them is ever executed.

    Raises:
        MissingDependencyError: torch is not installed.
        CheckpointError: a shard is missing or cannot be read.
        UnsafeError: a shard pickles more than tensors, or the index names a file outside of the folder.
    """
    tensors: dict[str, TorchTensor] = {}
    for path in _shards(folder):
        for name, tensor in (part for item in _load(path).items() for part in flattened(*item)):
            dtype = _DTYPES.get(str(tensor.dtype))
            if dtype is None:
                raise CheckpointError(f"{path}: tensor {name!r} has the unsupported type {tensor.dtype}")
            if name in tensors:
                raise CheckpointError(f"tensor {name!r} is in both {tensors[name].path.name} and {path.name}")
            size = tensor.numel() * ELEMENT_SIZES[dtype]
            tensors[name] = TorchTensor(name, dtype, tuple(tensor.shape), size, path, tensor)
    return tensors


def _shards(folder: Path) -> list[Path]:
    if not (folder / _INDEX).is_file():
        return [folder / "pytorch_model.bin"]
    weight_map = read_json_object(folder / _INDEX).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(shard, str) for shard in weight_map.values()):
        raise CheckpointError(f"{folder / _INDEX}: weight_map is no map from tensor names to file names")
    names = list(dict.fromkeys(weight_map.values()))
    for name in names:
        if Path(name).name != name or name in ("", ".", ".."):
            raise UnsafeError(f"{folder / _INDEX} names a file outside of its folder: {name!r}")
        if not (folder / name).is_file():
            raise CheckpointError(f"a shard is missing: {folder / name}", hint=f"download {name} again")
    return [folder / name for name in names]


def _load(path: Path) -> "dict[str, Tensor]":
    try:
        import torch
    except ImportError:
        raise MissingDependencyError(
            f"reading {path.name} needs torch, which is not installed", hint="pip install 'ggufkit[hf]'"
        ) from None
    from pickle import UnpicklingError
    from zipfile import is_zipfile

    try:
        # torch maps only its zip format; before version 1.6 a checkpoint was a bare pickle, which is read whole.
        with stand_ins(path) if is_zipfile(path) else nullcontext():
            state = torch.load(path, map_location="cpu", weights_only=True, mmap=is_zipfile(path))
    except UnpicklingError as error:
        raise UnsafeError(f"{path} pickles more than tensors, or is damaged: {_first_line(error)}") from None
    except (OSError, RuntimeError, ValueError, EOFError) as error:
        raise CheckpointError(f"cannot read {path}: {_first_line(error)}", hint="download it again") from None
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise CheckpointError(f"{path} holds no map from names to tensors")
    return state


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
