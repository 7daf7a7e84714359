"""Operations on rows that must stay whole, because their elements are packed into blocks of a quantized type."""

from collections.abc import Sequence

import numpy as np

from ggufkit.architectures._expert_ops import SplitGateUp, StackedDown, Twice
from ggufkit.architectures._head_ops import UndoRopePermute, UngroupQkv
from ggufkit.architectures._ops import Array, Concatenate, Copy, Each, Op, Shape, Split, Stack, Then
from ggufkit.architectures._sizes import Config


def move_rows(op: Op, rows: Sequence[Array], shapes: Sequence[Shape], config: Config) -> list[Array] | None:
    """Apply an op to sources of which the last axis is a row in whatever encoding, not one element after the other.

    `shapes` are the sources' shapes in elements. None: the op takes rows apart, or computes with elements.
    """
    match op:
        case Copy():
            return list(rows)
        case Twice():
            return [rows[0], rows[0]]
        case Stack() | Concatenate() | UndoRopePermute() | UngroupQkv():
            return op.apply(rows, config)
        case Split() if op.axis != -1:
            return op.apply(rows, config)
        case Each():
            parts = [
                move_rows(part, [row], [shape], config) for part, row, shape in zip(op.ops, rows, shapes, strict=True)
            ]
            return None if any(part is None for part in parts) else [array for part in parts for array in part or ()]
        case Then():
            moved: list[Array] | None = list(rows)
            for part in op.ops:
                moved = None if moved is None else move_rows(part, moved, shapes, config)
                shapes = part.shapes(shapes, config)
            return moved
        case SplitGateUp() if not op.turns(shapes[0], config):
            return [rows[0][:, ::2], rows[0][:, 1::2]] if op.interleaved else np.split(rows[0], 2, axis=1)
        case StackedDown() if not op.turns(shapes[0], config):
            return list(rows)
    return None
