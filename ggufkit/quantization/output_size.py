"""The size of the files that llama-quantize will write, to the byte: its metadata are the source's, plus a few keys."""

from collections.abc import Iterable, Mapping, Sequence

from ggufkit.gguf_file.reader import Entry, GgufHeader, ValueType

ALIGNMENT = 32  # llama-quantize pads with this, whatever the source's alignment
_SPLIT_KEYS = {"split.no": 2, "split.count": 2, "split.tensors.count": 4}
_OVERRIDE_SIZES = {"int": 4, "float": 4, "bool": 1}


def file_sizes(
    header: GgufHeader,
    parts: Sequence[Iterable[tuple[str, tuple[int, ...], int]]],
    added: Mapping[str, int],
    overrides: Iterable[tuple[str, str]] = (),
) -> tuple[int, ...]:
    """Compute the sizes of all parts, of which there is one unless a split model stays split.

    `parts` holds (name, shape without closing ones, bytes) for each tensor of each part; `added` the keys that are
    added, with the bytes of their values.
    """
    values = {key: _value_bytes(entry) for key, entry in header.metadata.entries.items() if key not in _SPLIT_KEYS}
    values |= {"general.quantization_version": 4, "general.file_type": 4} | dict(added)
    for key, text in overrides:
        kind, _, value = text.partition(":")
        values[key] = string_bytes(value) if kind == "str" else _OVERRIDE_SIZES[kind]
    split = _SPLIT_KEYS if len(parts) > 1 else {}
    return tuple(_part_size({**(values if number == 0 else {}), **split}, part) for number, part in enumerate(parts))


def string_bytes(text: str) -> int:
    """Return the bytes of a string value: its length takes 8."""
    return 8 + len(text.encode())


def _part_size(values: Mapping[str, int], tensors: Iterable[tuple[str, tuple[int, ...], int]]) -> int:
    tensors = list(tensors)
    size = 24 + sum(8 + len(key.encode()) + 4 + value for key, value in values.items())
    size += sum(8 + len(name.encode()) + 4 + 8 * len(shape) + 4 + 8 for name, shape, _ in tensors)
    return _padded(size) + sum(_padded(count) for _, _, count in tensors)


def _value_bytes(entry: Entry) -> int:
    return entry.size + (12 if entry.kind is ValueType.ARRAY else 0)


def _padded(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT
