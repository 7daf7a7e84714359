"""The header of a safetensors file as JSON, with the safetensors library's own verdict on what is JSON.

Python's parser takes more than the library's: half surrogate pairs, NaN, `-0` as an integer, any depth. And it takes
memory, many times the header's size, for headers of nothing but brackets.
"""

import json
import math
from typing import Any

MAXIMUM_HEADER = 100_000_000  # bytes; the library's own limit
MOST_VALUES = 3_000_000  # in one header: for some 200,000 tensors
_DEEPEST = 127  # serde_json, which the library reads with, gives up beyond it
_LARGEST_WIDE = 16 << 20  # a header whose names are not ASCII takes up to four times its size as text
_POINTER = b"version https://git-lfs.github.com/spec/"


def parse_header(raw: bytearray) -> dict[str, Any]:
    """Parse a header, and check `__metadata__`.

    Stricter than the library on purpose: a key that stands twice, leading space (which the format forbids), more than
    `MOST_VALUES` values.

    Raises:
        ValueError: it is not what the library would take, and why.
    """
    if not raw.startswith(b"{"):
        raise ValueError("the header does not start with '{'")
    if sum(raw.count(mark) for mark in b",:[{") > MOST_VALUES or (len(raw) > _LARGEST_WIDE and not raw.isascii()):
        raise ValueError("the header holds more than that of any model")
    escaped = b"\\u" in raw
    try:
        text = str(raw, "utf-8")
        raw.clear()
        header = json.loads(
            text,
            object_pairs_hook=_without_duplicates,
            parse_int=_integer,
            parse_float=_finite,
            parse_constant=_refuse_constant,
        )
        odd = [entry for entry in header.values() if not isinstance(entry, dict) or len(entry) != 3]
        _check(header if escaped else odd, escaped=escaped)
    except RecursionError:
        raise ValueError("the header is nested too deeply") from None
    except ValueError as error:
        raise ValueError(f"the header is not valid JSON: {error}") from None
    metadata = header.get("__metadata__")
    if metadata is not None and not (
        isinstance(metadata, dict) and all(isinstance(value, str) for value in metadata.values())
    ):
        raise ValueError("__metadata__ is no map of strings")
    return dict(header)


def foreign_kind(beginning: bytes) -> str | None:
    """Tell what stands in place of weights, by the first bytes of a file; None when nothing that is known does."""
    if not beginning:
        return "empty"
    if beginning.startswith(_POINTER):
        return "a Git LFS pointer"
    # A length of eight bytes begins a safetensors file: these would stand for petabytes.
    start = beginning[:64].lstrip().lower()
    if start.startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        return "a web page"
    return None


def _check(value: Any, *, escaped: bool) -> None:
    """Refuse nesting beyond the library's, and text that is not Unicode, which only escapes can hold."""
    pending: list[tuple[Any, int]] = [(value, 1)]
    while pending:
        found, depth = pending.pop()
        if depth > _DEEPEST:
            raise ValueError("nested too deeply")
        if escaped:
            texts = found if isinstance(found, dict) else ()
            for text in (*texts, *_members(found)):
                if isinstance(text, str) and any("\ud800" <= character <= "\udfff" for character in text):
                    raise ValueError(f"half a surrogate pair in {text!r:.60}")
        pending += [(member, depth + 1) for member in _members(found) if isinstance(member, dict | list)]


def _members(value: dict[str, Any] | list[Any]) -> Any:
    return value.values() if isinstance(value, dict) else value


def _integer(text: str) -> int | float:
    """Read an integer; `-0` is none to the library, and neither is what no 64-bit float could hold."""
    if text == "-0":
        return -0.0
    if len(text) > 300:
        _finite(text)
    return int(text)


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"number out of range: {text:.40}")
    return number


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not a JSON number")


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        raise ValueError("a key stands twice")
    return values
