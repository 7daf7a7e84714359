"""How large the file is to be: as large as a preset makes it, so many bytes, or so many bits per weight."""

import re
from dataclasses import dataclass
from enum import StrEnum

from ggufkit.errors import UsageError
from ggufkit.quantization.types import QuantizationType, quantization_type

_UNITS = {
    "": 1, "b": 1,
    "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12,
    "kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30, "tib": 1 << 40,
}  # fmt: skip
_SIZE = re.compile(r"\s*(\d+(?:[.,_]\d+)*)\s*([a-z]*)\s*", re.IGNORECASE)
_MOST_BITS = 32.0


class Measure(StrEnum):
    """What the number of a target counts."""

    LIKE = "like"
    BYTES = "bytes"
    BITS_PER_WEIGHT = "bpw"


_MOST_BYTES = 2**63


@dataclass(frozen=True, slots=True)
class Target:
    """One size that is wanted; `said` is what the user wrote."""

    measure: Measure
    said: str
    value: float = 0.0
    preset: QuantizationType | None = None


def like(name: str) -> Target:
    """Read `--like`. Raises UsageError: there is no such preset, or it does not quantize."""
    preset = quantization_type(name)
    if not preset.base.is_quantized:
        raise UsageError(f"--like {preset.name}: that type does not quantize", hint="such as --like Q4_K_M")
    return Target(Measure.LIKE, preset.name, preset=preset)


def size(text: str) -> Target:
    """Read `--target-size`: a number with a unit, powers of ten (4.5GB) or of two (4.2GiB); without one, bytes.

    Raises:
        UsageError: it is none.
    """
    found = _SIZE.fullmatch(text)
    unit = _UNITS.get(found[2].lower()) if found else None
    if not found or unit is None:
        raise UsageError(f"--target-size {text!r} is no size", hint="such as 4.5GB, 4200MiB or 4500000000")
    try:
        value = float(found[1].replace("_", "")) * unit
    except ValueError:
        raise UsageError(
            f"--target-size {text!r} is no size", hint="such as 4.5GB; with a point, not a comma"
        ) from None
    if not 1 <= value < _MOST_BYTES:
        raise UsageError(f"--target-size {text:.40} is no size of a file", hint="such as 4.5GB")
    return Target(Measure.BYTES, text.strip().replace(" ", ""), value)


def bits_per_weight(value: float) -> Target:
    """Read `--target-bpw`. Raises UsageError: no file can have so many."""
    if not 0 < value <= _MOST_BITS:
        raise UsageError(f"--target-bpw {value:g} makes no sense", hint="such as --target-bpw 4.6")
    return Target(Measure.BITS_PER_WEIGHT, f"{value:g}bpw", value)
