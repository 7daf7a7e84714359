"""A Hugging Face model folder as a value: its config, its tensors, its vocabulary."""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ggufkit.checkpoints import safetensors, torch_bin
from ggufkit.checkpoints.config import Config, check_values, read_config, read_json_object
from ggufkit.checkpoints.source_quantization import Blocks, DequantizedTensor, SourceQuantization, undo_quantization
from ggufkit.checkpoints.source_quantization.settings_files import read_settings
from ggufkit.checkpoints.tensors import StoredTensor

__all__ = [
    "Blocks",
    "Checkpoint",
    "Config",
    "DequantizedTensor",
    "SourceQuantization",
    "StoredTensor",
    "check_values",
    "open_checkpoint",
    "read_config",
    "read_json_object",
]


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A model folder: its config, and its tensors by name. The data of the tensors is read when asked for.

    Where others quantized the weights, `tensors` are plain ones, made while read; `stored` are those in the files, and
    `quantization` says what was found. `check_unchanged` raises CheckpointError when somebody wrote to the files since.
    """

    folder: Path
    config: Config
    tensors: Mapping[str, StoredTensor]
    stored: Mapping[str, StoredTensor]
    quantization: SourceQuantization | None = None
    check_unchanged: Callable[[], None] = lambda: None

    @property
    def size(self) -> int:
        """The bytes of all stored tensors together."""
        return sum(tensor.size for tensor in self.stored.values())


@contextlib.contextmanager
def open_checkpoint(folder: Path) -> Iterator[Checkpoint]:
    """Open a model folder: safetensors where there are some, else `.bin` files (which need torch).

    Raises:
        CheckpointError: no config.json, no weights, a shard missing or malformed, quantized in a way that is not known.
        MissingDependencyError: the weights are `.bin` and torch is not installed.
        UnsafeError: an index names files outside of the folder, or a `.bin` holds code.
    """
    config = read_config(folder)
    # As transformers looks: an adapter's safetensors beside a model's `.bin` are not the model.
    named = any((folder / name).is_file() for name in (safetensors.INDEX, "model.safetensors"))
    if not named and torch_bin.has_bin(folder):
        with torch_bin.open_bin(folder) as (mapped, bins):
            yield _checkpoint(folder, config, mapped, _check_of(bins))
        return
    files = safetensors.open_safetensors(folder)
    try:
        stored = {name: tensor for file in files for name, tensor in file.tensors.items()}
        yield _checkpoint(folder, config, stored, _check_of(files))
    finally:
        safetensors.close_all(files)


def _checkpoint(
    folder: Path, config: Config, stored: Mapping[str, StoredTensor], check_unchanged: Callable[[], None]
) -> Checkpoint:
    outer = config.outer if config.outer.get("quantization_config") else {**config.outer, **read_settings(folder)}
    tensors, quantization = undo_quantization(outer, stored)
    return Checkpoint(folder, config, tensors, stored, quantization, check_unchanged)


def _check_of(files: Sequence[safetensors.SafetensorsFile | torch_bin.TorchFile]) -> Callable[[], None]:
    def check_unchanged() -> None:
        for file in files:
            file.check_unchanged()

    return check_unchanged
