"""Copies of GGUF files with one thing wrong, for tests of what notices it."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np


def with_tensor(source: Path, target: Path, name: str, change: Callable[[np.ndarray], np.ndarray]) -> Path:
    """Copy a file; `change` gets a tensor's data (row-major, uint8 rows where quantized) and gives data as large."""
    shutil.copy(source, target)
    reader = gguf.GGUFReader(target, "r+")
    tensor = next(tensor for tensor in reader.tensors if tensor.name == name)
    changed = change(np.array(tensor.data))
    assert not np.array_equal(changed, tensor.data), "the change changes nothing"
    tensor.data[:] = changed.reshape(tensor.data.shape)
    reader.data.flush()
    return target


def with_byte(source: Path, target: Path, name: str, at: int, mask: int) -> Path:
    """Copy a file and flip some bits of one byte of a tensor."""

    def flip(data: np.ndarray) -> np.ndarray:
        flat = data.reshape(-1).view(np.uint8)
        flat[at] ^= mask
        return data

    return with_tensor(source, target, name, flip)


def with_metadata(source: Path, target: Path, **changes: Any) -> Path:
    """Copy a file with other values for keys (spelled with `__` for `.`), of the types that they had; None removes."""
    reader = gguf.GGUFReader(source)
    changed = {key.replace("__", "."): value for key, value in changes.items()}
    writer = gguf.GGUFWriter(target, str(reader.fields["general.architecture"].contents()))
    for key, field in reader.fields.items():
        if key.startswith("GGUF.") or key == "general.architecture" or (key in changed and changed[key] is None):
            continue
        kind, element = field.types[0], field.types[-1] if field.types[0] == gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(key, changed.get(key, field.contents()), kind, sub_type=element)
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, np.array(tensor.data), raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return target
