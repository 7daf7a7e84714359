"""compressed-tensors' integers: packed in 32-bit words along the inputs, or one in a byte, with their zero points.

Packed ones are stored plus 2^(bits-1), and so are packed zero points, which lie along the outputs: [rows, groups].
"""

from collections.abc import Callable, Mapping

import numpy as np

from ggufkit.checkpoints.source_quantization import _grouped
from ggufkit.checkpoints.source_quantization._packed import WORD, unpack, words_for
from ggufkit.checkpoints.source_quantization._reading import Array, read_all, read_rows
from ggufkit.checkpoints.source_quantization._weights import DequantizedTensor
from ggufkit.checkpoints.tensors import Shape, StoredTensor
from ggufkit.errors import CheckpointError

_WIDEST = 8


def integer_weight(
    module: str,
    tensor: StoredTensor,
    scale: StoredTensor,
    stored: Mapping[str, StoredTensor],
    *,
    bits: int | None,
    group: int | None,
) -> tuple[DequantizedTensor, str]:
    """Make the weight of `weight_packed` (I32) or `weight` (I8), and say what it is; `bits` and `group` by the config.

    Raises:
        CheckpointError: the parts do not fit each other, or not the config.
    """
    zero, order, told = (stored.get(f"{module}.weight_{part}") for part in ("zero_point", "g_idx", "shape"))
    packed = tensor.dtype == "I32"
    shape = _shape(tensor, scale, told, bits, group) if packed else tensor.shape
    width = _bits(tensor, shape, bits) if packed else bits or _WIDEST
    weight = _grouped.grouped_weight(
        f"{module}.weight",
        shape,
        _codes(tensor, shape[1], width, signed=zero is None),
        scale,
        bits=width,
        group=group,
        parts=(tensor, scale, *(part for part in (zero, order, told) if part is not None)),
        zeros=_zeros(zero, scale, shape[0], width) if zero is not None else None,
        order=order,
    )
    said = [f"int {width} bits", _grouped.describe(scale, shape, group)]
    said += (["asymmetric"] if zero else []) + (["activation order"] if order else [])
    return weight, ", ".join(said)


def _shape(
    tensor: StoredTensor, scale: StoredTensor, told: StoredTensor | None, bits: int | None, group: int | None
) -> Shape:
    """Find the true shape: `weight_shape` holds it, in data that is not there when only headers were fetched."""
    if len(tensor.shape) != 2:
        raise CheckpointError(f"tensor {tensor.name!r} has shape {tensor.shape}, expected rows of packed integers")
    if told is not None and told.shape == (2,) and told.dtype in ("I64", "I32"):
        rows, columns = (int(size) for size in read_all(told))
        if rows and columns:
            if rows != tensor.shape[0] or columns < 1:
                what = f"{rows} x {columns}, but {tensor.name!r} is {tensor.shape}"
                raise CheckpointError(f"tensor {told.name!r} says {what}")
            return rows, columns
    if bits is None:
        raise CheckpointError(f"tensor {tensor.name!r} has neither a weight_shape nor num_bits in the config")
    whole = tensor.shape[1] * WORD // bits
    groups = scale.shape[1] if len(scale.shape) == 2 else 1
    return tensor.shape[0], min(whole, groups * group) if group and group > 0 else whole


def _bits(tensor: StoredTensor, shape: Shape, told: int | None) -> int:
    """Work out the bits of a packed integer by the words of a row; the config must agree. Raises CheckpointError."""
    words, columns = tensor.shape[1], shape[1]
    found = [bits for bits in range(1, 9) if words in _grouped.row_words(columns, bits)]
    found.sort(key=lambda bits: words != words_for(columns, bits))  # dense packing is far more likely
    if told in found:
        return told
    if told is None and found:
        return found[0]
    fits = f"{found[0]} bits" if found else "no width up to 8 bits"
    raise CheckpointError(
        f"tensor {tensor.name!r} has {words} words for {columns} columns, which is {fits}; "
        f"the config says {told} (num_bits)"
    )


def _codes(tensor: StoredTensor, columns: int, bits: int, *, signed: bool) -> Callable[[range], Array]:
    offset = np.int16(2 ** (bits - 1))
    lowest, highest = -int(offset), int(offset) - 1

    def packed(rows: range) -> Array:
        codes = _grouped.unpack_rows(read_rows(tensor, rows), bits, columns)
        return codes.astype(np.int16) - offset if signed else codes

    def bytes_(rows: range) -> Array:
        codes = read_rows(tensor, rows)
        if bits < _WIDEST and codes.size and (int(codes.min()) < lowest or int(codes.max()) > highest):
            raise CheckpointError(
                f"tensor {tensor.name!r} goes from {codes.min()} to {codes.max()}, by the config's {bits} bits "
                f"(num_bits) from {lowest} to {highest}"
            )
        return codes if signed else codes.astype(np.int16) + offset

    return packed if tensor.dtype == "I32" else bytes_


def _zeros(zero: StoredTensor, scale: StoredTensor, rows: int, bits: int) -> Callable[[range], Array]:
    """Read zero points as unsigned integers, [rows, groups]: packed along the rows, or one for each scale.

    Raises:
        CheckpointError: they are neither.
    """
    groups = zero.shape[1] if len(zero.shape) == 2 else 1
    if groups != (scale.shape[1] if len(scale.shape) == 2 else 1):
        raise CheckpointError(f"tensor {zero.name!r} has shape {zero.shape}, but {scale.name!r} has {scale.shape}")
    if zero.dtype == "I32" and len(zero.shape) == 2 and zero.shape[0] == words_for(rows, bits):

        def packed(part: range) -> Array:
            first, last = part.start // WORD, -(-part.stop // WORD)  # whole runs of 32 values take `bits` words
            words = read_rows(zero, range(first * bits, min(last * bits, zero.shape[0])))
            values = unpack(words, min(last * WORD, rows) - first * WORD, bits)
            return values[part.start - first * WORD :][: len(part)].astype(np.int16)

        return packed
    if zero.dtype not in ("I8", "U8", "I32") or zero.shape[:1] not in ((rows,), (1,), ()):
        raise CheckpointError(
            f"tensor {zero.name!r} is {zero.dtype} of shape {zero.shape}: no zero points of {rows} rows"
        )

    def plain(part: range) -> Array:
        found = read_rows(zero, part) if zero.shape[:1] == (rows,) else read_all(zero)
        values = found.reshape(-1, groups).astype(np.int16) + np.int16(2 ** (bits - 1))
        return np.broadcast_to(values, (len(part), groups))

    return plain
