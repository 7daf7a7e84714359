"""Merge an adapter into what it was made for: a PEFT folder into a checkpoint, a GGUF adapter into a GGUF model."""

from pathlib import Path

from ggufkit.conversion.adapters.merge_checkpoint import MergeResult, merge_into_checkpoint
from ggufkit.conversion.adapters.merge_gguf import merge_into_gguf
from ggufkit.errors import InputError, UsageError
from ggufkit.progress import Progress, silent


def merge_lora(
    base: Path, adapter: Path, output: Path, *, other_base: bool = False, progress: Progress = silent
) -> MergeResult:
    """Add `adapter` to the weights of `base`, and write the result to `output`: a folder, or a GGUF file.

    `other_base` lets a GGUF adapter be merged into another base than it was made for, if names and shapes fit.

    Raises:
        UsageError: one is a folder, and the other a file.
        InputError: there is no such base or adapter.
        As `merge_into_checkpoint` and `merge_into_gguf`.
    """
    for path in (base, adapter):
        if not path.exists():
            raise InputError(f"no such file or folder: {path}")
    if base.is_dir() != adapter.is_dir():
        folder, file = (base, adapter) if base.is_dir() else (adapter, base)
        raise UsageError(
            f"{folder} is a folder and {file} a file: PEFT adapters go into checkpoints, GGUF ones into GGUF models",
            hint="ggufkit convert-lora ADAPTER --base CHECKPOINT" if adapter.is_dir() else None,
        )
    if base.is_dir():
        return merge_into_checkpoint(base, adapter, output, progress=progress)
    return merge_into_gguf(base, adapter, output, other_base=other_base, progress=progress)
