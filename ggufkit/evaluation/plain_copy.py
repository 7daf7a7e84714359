"""A copy with plain weights of a checkpoint that others quantized: for judges that know nothing of how it is stored."""

import contextlib
import json
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ggufkit.checkpoints import Checkpoint, DequantizedTensor, StoredTensor
from ggufkit.errors import CheckpointError
from ggufkit.files import PlannedFile, check_space

_AT_ONCE = 1 << 24  # bytes
_WITHOUT = ("quantization_config", "compression_config")


@contextlib.contextmanager
def loadable(checkpoint: Checkpoint) -> Iterator[Path]:
    """Give a folder that holds this model's plain weights: its own, or a copy that goes away with the block.

    gpt-oss stores experts with the inputs last, where transformers has them in the middle: the copy has it so.

    Raises:
        CheckpointError: there is no space for the copy, or the checkpoint cannot be read.
    """
    found = checkpoint.quantization
    if found is None or not found.weights:
        yield checkpoint.folder
        return
    with tempfile.TemporaryDirectory(prefix="ggufkit-plain-") as name:
        folder = Path(name)
        weights = folder / "model.safetensors"
        check_space([PlannedFile(weights, sum(tensor.size for tensor in checkpoint.tensors.values()))])
        (folder / "config.json").write_text(json.dumps(_plain(checkpoint.config.outer)))
        _write(weights, checkpoint.tensors, turned=found.scheme == "MXFP4")
        yield folder


def _plain(config: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: _plain(value) if isinstance(value, Mapping) else value
        for key, value in config.items()
        if key not in _WITHOUT
    }


def _write(path: Path, tensors: Mapping[str, StoredTensor], *, turned: bool) -> None:
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    place = 0
    for name, tensor in tensors.items():
        shape = tensor.shape
        if turned and _is_stacked(tensor):
            shape = (shape[0], shape[2], shape[1])
        header[name] = {"dtype": tensor.dtype, "shape": shape, "data_offsets": [place, place + tensor.size]}
        place += tensor.size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    try:
        with path.open("wb") as file:
            file.write(len(text).to_bytes(8, "little") + text)
            for tensor in tensors.values():
                for piece in _pieces(tensor, turned=turned and _is_stacked(tensor)):
                    file.write(piece)
    except OSError as error:
        raise CheckpointError(f"no plain copy of the checkpoint for transformers: {error.strerror}") from error


def _is_stacked(tensor: StoredTensor) -> bool:
    return isinstance(tensor, DequantizedTensor) and len(tensor.shape) == 3


def _pieces(tensor: StoredTensor, *, turned: bool) -> Iterator[bytes]:
    """Read a tensor in pieces of some rows, or expert by expert where each is turned round."""
    row = tensor.size // max(1, tensor.shape[0] if tensor.shape else 1)
    step = row if turned else max(row, _AT_ONCE // max(1, row) * row)
    for start in range(0, tensor.size, max(1, step)):
        buffer = bytearray(min(step, tensor.size - start))
        tensor.read_into(memoryview(buffer), start)
        if turned:
            yield np.frombuffer(buffer, "<f4").reshape(tensor.shape[1:]).T.tobytes()
        else:
            yield bytes(buffer)
