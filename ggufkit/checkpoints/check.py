"""Every check that a model folder can be given without knowing its architecture, as a list of what is wrong.

`ggufkit.conversion.check` goes on where this ends: the plan of a conversion, the tokenizer, the code that it carries.
"""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ggufkit.checkpoints import open_checkpoint
from ggufkit.checkpoints.tensors import BUFFERS, StoredTensor
from ggufkit.errors import GgufkitError, MissingDependencyError
from ggufkit.findings import Finding, Severity
from ggufkit.progress import Progress, silent

_PIECE = 1 << 22  # bytes read at a time
_LARGEST_F16 = 65504.0
# Of each type the unsigned integer of its size, the exponent's bits, and the pattern of the first number beyond F16.
_BITS: Mapping[str, tuple[np.dtype[Any], int, int]] = {
    "F16": (np.dtype("<u2"), 0x7C00, 0x7C00),
    "BF16": (np.dtype("<u2"), 0x7F80, 0x4780),
    "F32": (np.dtype("<u4"), 0x7F800000, 0x477FF000),
    "F64": (np.dtype("<u8"), 0x7FF0000000000000, 0x40EFFE0000000000),
}


def check_checkpoint(folder: Path, *, weights: bool = False, progress: Progress = silent) -> list[Finding]:
    """Check a model folder: its links and sizes, its config, its index and shards against each other.

    Headers are read, and no weights, unless `weights` asks for it: then NaN, infinity and values that F16 cannot hold
    are looked for, each once per tensor; `progress` is told the bytes. Nothing of the folder is run. Whatever is wrong
    with the folder is a finding, not an exception.

    Raises:
        MissingDependencyError: the weights are `.bin` and torch is not installed.
    """
    try:
        with open_checkpoint(folder) as checkpoint:
            if not weights:
                return []
            found = list(_check_weights(checkpoint.stored.values(), checkpoint.size, progress))
            checkpoint.check_unchanged()
            return found
    except MissingDependencyError:
        raise
    except GgufkitError as error:
        return [Finding.of_error(error, str(folder))]


def _check_weights(tensors: Iterable[StoredTensor], total: int, progress: Progress) -> Iterator[Finding]:
    done = 0
    for tensor in sorted(tensors, key=lambda tensor: tensor.position):
        if tensor.dtype in _BITS and not BUFFERS.search(tensor.name):
            yield from _check_tensor(tensor)
        done += tensor.size
        progress("Checking", done, total)


def _check_tensor(tensor: StoredTensor) -> Iterator[Finding]:
    unsigned, exponent, beyond = _BITS[tensor.dtype]
    magnitude = unsigned.type((1 << (8 * unsigned.itemsize - 1)) - 1)
    overflow = None
    for start in range(0, tensor.size, _PIECE):
        buffer = np.empty(min(_PIECE, tensor.size - start), np.uint8)
        tensor.read_into(buffer.data, start)
        bits: NDArray[Any] = buffer.view(unsigned) & magnitude
        first = start // unsigned.itemsize
        if (bits >= unsigned.type(exponent)).any():
            index = int(np.argmax(bits >= unsigned.type(exponent)))
            value = "infinity" if bits[index] == exponent else "NaN"
            yield Finding(
                Severity.UNFIT,
                f"tensor {tensor.name!r}, element {first + index}{_place(tensor, first + index)} is {value}",
                Path(tensor.position[0]).name,
                "the checkpoint is damaged, or its training diverged",
            )
            return
        if overflow is None and (bits >= unsigned.type(beyond)).any():
            overflow = first + int(np.argmax(bits >= unsigned.type(beyond)))
    if overflow is not None:
        yield Finding(
            Severity.WARNING,
            f"tensor {tensor.name!r}, element {overflow}{_place(tensor, overflow)} is beyond F16's {_LARGEST_F16:g}",
            Path(tensor.position[0]).name,
            "convert with --outtype bf16 or f32",
        )


def _place(tensor: StoredTensor, index: int) -> str:
    """Write an element's place in a tensor of several axes."""
    if len(tensor.shape) < 2:
        return ""
    return f" [{', '.join(str(int(axis)) for axis in np.unravel_index(index, tensor.shape))}]"
