"""The types that the built llama-quantize offers: its own list, completed by what our table knows about each."""

import re
from dataclasses import dataclass

from ggufkit.errors import MissingDependencyError, UsageError
from ggufkit.gguf_file.tensor_types import TensorType
from ggufkit.llamacpp import quantize as tool
from ggufkit.quantization.types import ALIASES, COPY, TYPES, QuantizationType, find_type, quantization_type

_BITS = re.compile(r"(\d+(?:\.\d+)?) +bpw")


@dataclass(frozen=True, slots=True)
class Offer:
    """A name that llama-quantize takes. `alias_of` is another name for the same; `offered` is False where ours is more.

    `known` is False for a type of a newer llama.cpp: what is said about it is the program's own description.
    """

    name: str
    type: QuantizationType
    alias_of: str | None = None
    offered: bool = True
    known: bool = True


def offered_types() -> tuple[tuple[Offer, ...], bool]:
    """List all names, the largest types first, and whether the program was there to be asked.

    Raises:
        LlamaCppError: the program is there and cannot be run.
    """
    try:
        lines = tool.offered()
    except MissingDependencyError:
        return tuple(_ours(offered=True)), False
    names = {line.name.upper() for line in lines}
    offers = [Offer(o.name, o.type, o.alias_of, o.name in names) for o in _ours(offered=True)]
    ours = {offer.name for offer in offers}
    strangers = [Offer(line.name, _described(line), known=False) for line in lines if line.name.upper() not in ours]
    return (*offers, *strangers), True


def offered_type(name: str) -> QuantizationType:
    """Return the type of that name, also one that only the program knows.

    Raises:
        UsageError: nobody knows it, or this build of llama.cpp lacks it.
        LlamaCppError: the program is there and cannot be run.
    """
    known = find_type(name)
    if known and known is not COPY and known in _LONG_KNOWN:
        return known
    offers, _ = offered_types()
    wanted = known.name if known else name.strip().upper()
    for offer in offers:
        if offer.name.upper() == wanted:
            if not offer.offered:
                raise UsageError(
                    f"this build of llama.cpp does not know the type {offer.name}",
                    hint="ggufkit setup builds one that does; ggufkit quantize --list shows what this one knows",
                )
            return offer.type
    return quantization_type(name)  # which raises, with the nearest names


def _ours(*, offered: bool) -> list[Offer]:
    offers = [Offer(kind.name, kind, offered=offered) for kind in (*TYPES, COPY)]
    for alias, name in ALIASES.items():
        if not alias.startswith("FP"):  # our own courtesy
            place = next(index for index, offer in enumerate(offers) if offer.name == name)
            offers.insert(place + 1, Offer(alias, offers[place].type, name, offered))
    return offers


def _described(line: tool.TypeLine) -> QuantizationType:
    """Make a type of one line of the program's list: its base is the longest tensor type that its name begins with."""
    begins = [member for member in TensorType if line.name.upper().startswith(member.name)]
    base = max(begins, key=lambda member: len(member.name), default=TensorType.Q8_0)
    bits = _BITS.search(line.description)
    return QuantizationType(
        line.name,
        line.number if line.number is not None else -1,
        base,
        float(bits[1]) if bits else 0.0,
        False,
        line.description,
    )


# Every llama-quantize of the last years has these: no need to start it only to hear so.
_LONG_KNOWN = {
    kind
    for kind in TYPES
    if kind.name in {"F32", "F16", "BF16", "Q8_0", "Q4_0"} or kind.name.endswith(("_K", "_K_S", "_K_M", "_K_L"))
}
