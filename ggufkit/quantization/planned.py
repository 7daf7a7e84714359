"""One tensor before and after, as a plan knows it."""

from dataclasses import dataclass

from ggufkit.gguf_file.tensor_types import TensorType


@dataclass(frozen=True, slots=True)
class Fallback:
    """A tensor that gets another type than the recipe wants, because its rows do not divide into that type's blocks."""

    tensor: str
    columns: int
    wanted: TensorType
    got: TensorType


@dataclass(frozen=True, slots=True)
class PlannedTensor:
    """One tensor, before and after. `shape` has GGUF's order: the contiguous axis first.

    `part` counts the files of a model that stays split. `source_name` differs where layers before it are pruned.
    """

    name: str
    shape: tuple[int, ...]
    was: TensorType
    to: TensorType
    bytes_before: int
    bytes_after: int
    part: int = 0
    source_name: str = ""


def stripped(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Drop the closing extents of 1, as ggml does when it writes a shape; at least one extent stays."""
    while len(shape) > 1 and shape[-1] == 1:
        shape = shape[:-1]
    return shape or (1,)


def elements(shape: tuple[int, ...]) -> int:
    """Multiply the extents."""
    count = 1
    for extent in shape:
        count *= extent
    return count
