"""Blocks that a file took over from a checkpoint which others had quantized: they must be the source's own bytes."""

import os
import threading
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ggufkit.conversion.execute import stream
from ggufkit.conversion.plan import ConversionPlan
from ggufkit.errors import GgufFileError
from ggufkit.gguf_file.reader import TensorInfo
from ggufkit.gguf_file.writer import TensorLayout
from ggufkit.progress import Progress

Array = NDArray[Any]


def find_kept(
    plan: ConversionPlan, stored: Mapping[str, tuple[TensorInfo, int]], *, threads: int, progress: Progress
) -> frozenset[str]:
    """Give the names of the tensors that equal the blocks of the source, and of those that lie beside them.

    `plan` must be one that keeps all blocks that it can; `stored` are a file's tensors, each with its open file. A
    tensor of the same type and other bytes may have been made of the dequantized weights: it is not among them.

    Raises:
        CheckpointError: the checkpoint cannot be read.
        GgufFileError: the file cannot be read.
    """
    streamed = {target.name for step in plan.steps if step.kept for target in step.targets}
    beside = {name for name in plan.extra if name.endswith(("scale",))}
    wanted = {
        tensor.name
        for tensor in plan.layout.tensors
        if tensor.name in streamed | beside and _fits(tensor, stored.get(tensor.name))
    }
    differing: set[str] = set()
    lock = threading.Lock()

    def take(target: TensorLayout, place: int, encoded: Array) -> None:
        if target.name not in wanted:
            return
        info, file = stored[target.name]
        made = np.ascontiguousarray(encoded).reshape(-1).view(np.uint8)
        found = os.pread(file, made.size, info.offset + place - target.offset)
        if len(found) != made.size:
            raise GgufFileError(f"the file became shorter while tensor {target.name!r} was read")
        if found != made.tobytes():
            with lock:
                differing.add(target.name)

    stream(
        plan,
        take,
        threads=threads,
        progress=progress,
        stage="Comparing kept blocks",
        wants=lambda target, _: target.name in wanted,
    )
    same = wanted - differing
    # what lies beside a weight is part of it
    return frozenset(name for name in same if name in streamed or f"{name.rpartition('.')[0]}.weight" in same)


def _fits(target: TensorLayout, found: tuple[TensorInfo, int] | None) -> bool:
    return (
        found is not None and int(found[0].type) == int(target.type) and tuple(reversed(found[0].shape)) == target.shape
    )
