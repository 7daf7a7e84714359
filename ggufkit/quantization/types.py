"""The quantization types that llama-quantize knows: what each costs in bits, what it needs, and what it is good for."""

import difflib
from dataclasses import dataclass

from ggufkit.errors import UsageError
from ggufkit.gguf_file.tensor_types import TensorType


@dataclass(frozen=True, slots=True)
class QuantizationType:
    """A recipe that gives every tensor of a model a type; most mix several.

    `number` is what `general.file_type` holds afterwards. `base` is the type that most tensors get.
    `bits_per_weight` is that of a whole Llama-3.1-8B; small models with large vocabularies end higher. It is 0 for
    `COPY`, and for a type of a newer llama.cpp that this table does not know.
    `needs_imatrix` says that llama-quantize refuses that model without an importance matrix.
    """

    name: str
    number: int
    base: TensorType
    bits_per_weight: float
    needs_imatrix: bool
    good_for: str

    @property
    def gains_from_imatrix(self) -> bool:
        """Whether an importance matrix makes a visible difference: at the usual 4 bits and below."""
        uses_it = self.base.is_quantized and self.base not in _BLIND
        return self.needs_imatrix or (uses_it and self.base.bits_per_weight < _GAINFUL_BITS)

    @property
    def ollama(self) -> bool:
        """Whether Ollama runs it: it runs llama.cpp's server, of a version before the one- and two-bit Q types."""
        return self.base not in _YOUNGER_THAN_OLLAMA

    @property
    def block_size(self) -> int:
        """Rows must be a multiple of this, or a tensor falls back to another type."""
        return self.base.block_size


_T = TensorType
_GAINFUL_BITS = 5.0
# Their encoders do not look at it (ggml-quants.c).
_BLIND = {_T.MXFP4, _T.TQ1_0, _T.TQ2_0, _T.Q1_0, _T.Q2_0}
_YOUNGER_THAN_OLLAMA = {_T.Q1_0, _T.Q2_0}

# Largest first. The bits and the needs are the ones that `llama-quantize --dry-run` reports; a test asks it again.
TYPES = tuple(
    QuantizationType(*row)
    for row in (
        ("F32", 0, _T.F32, 32.00, False, "full precision, for tests"),
        ("BF16", 32, _T.BF16, 16.00, False, "the exact weights of most checkpoints; slow on older CPUs"),
        ("F16", 1, _T.F16, 16.00, False, "the usual source for quantizing"),
        ("Q8_0", 7, _T.Q8_0, 8.50, False, "as good as F16, at half the size"),
        ("MXFP4_MOE", 38, _T.MXFP4, 8.50, False, "mixtures of experts in MXFP4, as gpt-oss was trained; else Q8_0"),
        ("Q6_K", 18, _T.Q6_K, 6.56, False, "very close to F16"),
        ("Q5_1", 9, _T.Q5_1, 6.04, False, "legacy; prefer Q5_K_M or Q6_K"),
        ("Q5_K_M", 17, _T.Q5_K, 5.70, False, "small loss; when Q4_K_M is not enough"),
        ("Q5_K_S", 16, _T.Q5_K, 5.57, False, "small loss, a little smaller"),
        ("Q5_0", 8, _T.Q5_0, 5.57, False, "legacy; for row lengths that K types cannot divide"),
        ("Q4_1", 3, _T.Q4_1, 5.10, False, "legacy; prefer Q4_K_M"),
        ("Q4_K_M", 15, _T.Q4_K, 4.89, False, "the usual choice: a quarter of the size, little loss"),
        ("IQ4_NL", 25, _T.IQ4_NL, 4.68, False, "4 bits for row lengths that K types cannot divide"),
        ("Q4_K_S", 14, _T.Q4_K, 4.67, False, "a little smaller than Q4_K_M"),
        ("Q4_0", 2, _T.Q4_0, 4.64, False, "fastest on many CPUs, and for models trained for it (QAT)"),
        ("IQ4_XS", 30, _T.IQ4_XS, 4.46, False, "close to Q4_K_S and smaller; slower on CPUs"),
        ("Q3_K_L", 13, _T.Q3_K, 4.30, False, "visible loss"),
        ("Q3_K_M", 12, _T.Q3_K, 4.00, False, "visible loss, for little memory"),
        ("IQ3_M", 27, _T.IQ3_S, 3.76, False, "better than Q3_K_M with an importance matrix"),
        ("IQ3_S", 26, _T.IQ3_S, 3.66, False, "as IQ3_M, smaller"),
        ("Q3_K_S", 11, _T.Q3_K, 3.64, False, "clear loss"),
        ("IQ3_XS", 22, _T.IQ3_S, 3.50, True, "clear loss, better than Q3_K_S"),
        ("IQ3_XXS", 23, _T.IQ3_XXS, 3.37, True, "clear loss, for large models in little memory"),
        ("Q2_K", 10, _T.Q2_K, 3.16, False, "strong loss; a smaller model is often better"),
        ("Q2_K_S", 21, _T.Q2_K, 2.97, True, "strong loss"),
        ("IQ2_M", 29, _T.IQ2_S, 2.93, True, "strong loss, better than Q2_K"),
        ("IQ2_S", 28, _T.IQ2_XS, 2.74, True, "strong loss, for very large models"),
        ("Q2_0", 41, _T.Q2_0, 2.68, False, "only for models trained for it"),
        ("IQ2_XS", 20, _T.IQ2_XS, 2.59, True, "strong loss, for very large models"),
        ("TQ2_0", 37, _T.TQ2_0, 2.52, False, "only for models trained with ternary weights"),
        ("IQ2_XXS", 19, _T.IQ2_XXS, 2.38, True, "severe loss, for very large models"),
        ("TQ1_0", 36, _T.TQ1_0, 2.19, False, "only for models trained with ternary weights"),
        ("IQ1_M", 31, _T.IQ1_M, 2.15, True, "severe loss; the last resort"),
        ("IQ1_S", 24, _T.IQ1_S, 2.00, True, "severe loss; the last resort"),
        ("Q1_0", 40, _T.Q1_0, 1.48, False, "only for models trained with one-bit weights"),
    )
)

COPY = QuantizationType(
    "COPY", -1, _T.F32, 0.0, False, "change no weights: to join parts, prune layers or set metadata"
)

ALIASES = {"Q3_K": "Q3_K_M", "Q4_K": "Q4_K_M", "Q5_K": "Q5_K_M", "FP16": "F16", "FP32": "F32"}

_BY_NAME = {quantization_type.name: quantization_type for quantization_type in (*TYPES, COPY)}


def find_type(name: str) -> QuantizationType | None:
    """Return the type of that name or alias in any case, None if there is none."""
    upper = name.strip().upper().replace("-", "_")
    return _BY_NAME.get(ALIASES.get(upper, upper))


def quantization_type(name: str) -> QuantizationType:
    """Return the type of that name or alias in any case.

    Raises:
        UsageError: there is none; the hint has the nearest names.
    """
    if found := find_type(name):
        return found
    nearest = nearest_types(name)
    raise UsageError(
        f"unknown quantization type {name!r}",
        hint=f"did you mean {' or '.join(nearest)}?" if nearest else "ggufkit quantize --list shows all types",
    )


def nearest_types(name: str) -> list[str]:
    """Name the types that somebody may have meant, the nearest first."""
    return difflib.get_close_matches(name.upper(), [*_BY_NAME, *ALIASES], n=3, cutoff=0.5)


def tensor_type(name: str) -> TensorType:
    """Return the tensor type of that name in any case: what a single tensor may be given.

    Raises:
        UsageError: there is none, or it is one that holds no weights (integers, F64) or is only used in computing.
    """
    found = TensorType.__members__.get(name.strip().upper())
    if found is None or found not in _WRITABLE:
        near = find_type(name)
        names = [member.name for member in _WRITABLE]
        nearest = [near.base.name] if near else difflib.get_close_matches(name.upper(), names, n=3, cutoff=0.5)
        raise UsageError(
            f"unknown tensor type {name!r}",
            hint=f"did you mean {' or '.join(nearest)}?" if nearest else f"one of {', '.join(names)}",
        )
    return found


def type_numbered(number: int) -> QuantizationType | None:
    """Return the type that `general.file_type` means by a number, None if there is none."""
    return next((kind for kind in TYPES if kind.number == number), None)


_UNWRITABLE = {_T.I8, _T.I16, _T.I32, _T.I64, _T.F64, _T.Q8_1, _T.Q8_K}
_WRITABLE = tuple(member for member in TensorType if member not in _UNWRITABLE)


def is_writable(kind: TensorType) -> bool:
    """Whether weights can be stored in this type."""
    return kind in _WRITABLE
