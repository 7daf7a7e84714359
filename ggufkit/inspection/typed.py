"""Metadata values with the types that a file gives them, for those who set others in their place."""

from gguf import GGUFValueType

from ggufkit.gguf_file.reader import Metadata
from ggufkit.gguf_file.writer import Value


def typed(metadata: Metadata, key: str) -> Value:
    """Return a value of a file with its type; an array comes without its elements, for it may be long."""
    entry = metadata.entries[key]
    if entry.element_kind is None:
        return Value(metadata[key], GGUFValueType(entry.kind))
    return Value([], GGUFValueType.ARRAY, GGUFValueType(entry.element_kind))
