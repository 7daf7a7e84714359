r"""JSON with the bytes that Go's `encoding/json` writes, which the digests of Ollama's blobs are made of.

From the source of Go (src/encoding/json/encode.go): no spaces; keys of maps sorted, fields of structs in their order;
`<`, `>` and `&` as `\u003c`, `\u003e`, `\u0026`; U+2028 and U+2029 escaped; other text as UTF-8. `Encoder.Encode` ends
with a newline, `Marshal` does not.
"""

import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_SHORT = {'"': '\\"', "\\": "\\\\", "\b": "\\b", "\f": "\\f", "\n": "\\n", "\r": "\\r", "\t": "\\t"}
_ESCAPED = {"<", ">", "&", "\u2028", "\u2029"}
_FROM_EXPONENT = 1e21  # encode.go, floatEncoder: numbers beyond these two are written with an exponent
_TO_EXPONENT = 1e-6


@dataclass(frozen=True, slots=True)
class Float32:
    """A number that Go holds in 32 bits: written with the fewest digits that name it among those."""

    value: float


def encode(value: Any) -> bytes:
    """Encode as `json.NewEncoder(w).Encode(value)` does, newline included. Mappings keep their order: sort maps first.

    Raises:
        TypeError: a value is of a type that no caller of ours needs.
        ValueError: a number is not finite.
    """
    return (marshal(value) + "\n").encode("utf-8", "replace")


def marshal(value: Any) -> str:
    """Encode as `json.Marshal(value)` does. Raises as `encode`."""
    match value:
        case None:
            return "null"
        case bool():
            return "true" if value else "false"
        case str():
            return _text(value)
        case int():
            return str(value)
        case float():
            return _number(value, repr(value))
        case Float32(number):  # once its digits are known, they are what is compared with the limits of an exponent
            digits = shortest_float32(number)
            return _number(float(digits), digits)
        case Mapping():
            return "{" + ",".join(f"{_text(key)}:{marshal(item)}" for key, item in value.items()) + "}"
        case Sequence():
            return "[" + ",".join(map(marshal, value)) + "]"
    raise TypeError(f"no JSON for {type(value).__name__}")


def sorted_map(values: Mapping[str, Any]) -> dict[str, Any]:
    """Order the keys as Go orders those of a map: by their bytes."""
    return dict(sorted(values.items(), key=lambda item: item[0].encode()))


def shortest_float32(number: float) -> str:
    """Write a number with the fewest digits by which a float of 32 bits is told from all others."""
    wanted = as_float32(number)
    for digits in range(1, 10):
        text = f"{wanted:.{digits}g}"
        if as_float32(float(text)) == wanted:
            return text
    return repr(wanted)


def as_float32(number: float) -> float:
    """Round to 32 bits; infinite where it is too large for them."""
    try:
        return float(struct.unpack("<f", struct.pack("<f", number))[0])
    except OverflowError:
        return math.copysign(math.inf, number)


def _text(text: str) -> str:
    parts = ['"']
    for character in text:
        if character in _SHORT:
            parts.append(_SHORT[character])
        elif character < " " or character in _ESCAPED:
            parts.append(f"\\u{ord(character):04x}")
        elif "\ud800" <= character <= "\udfff":  # half a surrogate pair: Go sees bytes that are no UTF-8
            parts.append("\\ufffd")
        else:
            parts.append(character)
    return "".join([*parts, '"'])


def _number(value: float, digits: str) -> str:
    if not math.isfinite(value):
        raise ValueError(f"JSON has no number {value}")
    mantissa, exponent = _decimal(digits)
    sign = "-" if math.copysign(1, value) < 0 else ""
    if value == 0:
        return f"{sign}0"
    if _TO_EXPONENT <= abs(value) < _FROM_EXPONENT:
        point = exponent + 1
        if point <= 0:
            return f"{sign}0.{'0' * -point}{mantissa}"
        whole, fraction = mantissa[:point].ljust(point, "0"), mantissa[point:]
        return f"{sign}{whole}.{fraction}" if fraction else f"{sign}{whole}"
    rest = f".{mantissa[1:]}" if mantissa[1:] else ""
    # encode.go cleans e-09 to e-9, and leaves e+21 as it is.
    return f"{sign}{mantissa[0]}{rest}e{'-' if exponent < 0 else '+'}{abs(exponent)}"


def _decimal(text: str) -> tuple[str, int]:
    """Split a written number into its digits, without zeros at either end, and the exponent of the first."""
    number, _, power = text.lstrip("-").lower().partition("e")
    whole, _, fraction = number.partition(".")
    digits = (whole + fraction).lstrip("0")
    exponent = len(whole.lstrip("0")) - 1 if whole.strip("0") else -(len(fraction) - len(fraction.lstrip("0"))) - 1
    return digits.rstrip("0") or "0", exponent + int(power or 0)
