"""Rotary position embeddings: what configs say about them, in both spellings, and what GGUF stores."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from ggufkit.architectures._ops import Array
from ggufkit.architectures._sizes import Config, head_dim
from ggufkit.architectures._spec import MetadataTable
from ggufkit.errors import CheckpointError

# Types that GGUF or llama.cpp expresses; "llama3" goes into a tensor, "default" needs nothing.
_GGUF_TYPES = {"linear": "linear", "yarn": "yarn"}
_KNOWN_TYPES = {"default", "llama3", *_GGUF_TYPES}
# Numbers in a rope config, and the least value that makes sense.
_SMALLEST = 1e-9
_NUMBERS = {
    **dict.fromkeys(("rope_theta", "factor", "low_freq_factor", "high_freq_factor"), _SMALLEST),
    **dict.fromkeys(("original_max_position_embeddings", "attention_factor", "attn_factor"), _SMALLEST),
    **dict.fromkeys(("extrapolation_factor", "beta_fast", "beta_slow", "mscale", "mscale_all_dim"), 0),
}


def rope(config: Config) -> Mapping[str, Any]:
    """Merge `rope_parameters` (transformers 5) or `rope_scaling` (4) with the keys beside them.

    The result has `rope_type` ("default" when none is named) and, when known, `rope_theta`.

    Raises:
        CheckpointError: the type is none that llama.cpp could follow.
    """
    nested = config.get("rope_parameters") or config.get("rope_scaling") or {}
    if not isinstance(nested, Mapping):
        raise CheckpointError(f"config.json: rope_scaling is {nested!r}, expected an object")
    given = {key: value for key, value in nested.items() if value is not None}
    values = {"rope_theta": config.get("rope_theta"), **given}
    values["rope_type"] = given.get("rope_type") or given.get("type") or "default"
    _check_numbers(values)
    if not isinstance(values["rope_type"], str) or values["rope_type"] not in _KNOWN_TYPES:
        raise CheckpointError(
            f"config.json: rope type {values['rope_type']!r} is not supported for this architecture",
            hint="try --converter llama.cpp, and compare the answers with the original model",
        )
    if values["rope_type"] in _GGUF_TYPES and "factor" not in values:
        raise CheckpointError(f"config.json: {values['rope_type']} rope without a factor")
    return values


def _check_numbers(values: Mapping[str, Any]) -> None:
    for key, value in values.items():
        if isinstance(value, Mapping):
            raise CheckpointError(
                f"config.json: rope settings of their own for {key!r}: not supported for this architecture",
                hint="try --converter llama.cpp, and compare the answers with the original model",
            )
        least = _NUMBERS.get(key)
        if least is None or value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value < math.inf:
            raise CheckpointError(f"config.json: {key} of the rope settings is {value!r}, expected a positive number")
    if values.get("high_freq_factor", 4.0) <= values.get("low_freq_factor", 1.0):
        raise CheckpointError("config.json: high_freq_factor of the rope settings must be above low_freq_factor")
    if values.get("partial_rotary_factor", 1) != 1:
        raise CheckpointError("config.json: partial_rotary_factor is not supported for this architecture")


def _scaling(key: str, *types: str) -> Any:
    """Read one key of a rope config, where its type is one of these."""

    def read(config: Config) -> Any:
        values = rope(config)
        return values.get(key) if values["rope_type"] in types else None

    return read


def _original_context(config: Config) -> int | None:
    values = rope(config)
    if values["rope_type"] != "yarn":
        return None
    given = values.get("original_max_position_embeddings") or config.get("original_max_position_embeddings")
    if given is None:
        raise CheckpointError("config.json: yarn rope without original_max_position_embeddings")
    return int(given)


def _attention_factor(config: Config) -> float | None:
    values = rope(config)
    return values.get("attention_factor", values.get("attn_factor")) if values["rope_type"] == "yarn" else None


ROPE: MetadataTable = {
    "rope.freq_base": lambda config: rope(config)["rope_theta"],
    "rope.scaling.type": lambda config: _GGUF_TYPES.get(rope(config)["rope_type"]),
    "rope.scaling.factor": _scaling("factor", "linear", "yarn"),
    "rope.scaling.original_context_length": _original_context,
    "rope.scaling.yarn_ext_factor": _scaling("extrapolation_factor", "yarn"),
    "rope.scaling.yarn_attn_factor": _attention_factor,
    "rope.scaling.yarn_beta_fast": _scaling("beta_fast", "yarn"),
    "rope.scaling.yarn_beta_slow": _scaling("beta_slow", "yarn"),
}


def llama3_frequency_factors(config: Config) -> Mapping[str, Array]:
    """Llama 3.1's per-frequency divisors (head_dim / 2 of them), as `rope_freqs`; empty for other rope types.

    The formula is transformers' `_compute_llama3_parameters`: long wavelengths are divided by `factor`, short ones
    kept, those between blended. Computed in float32, as the model does.
    """
    values = rope(config)
    if values["rope_type"] != "llama3":
        return {}
    size = head_dim(config)
    factor, low, high = (
        float(values.get(key, default))
        for key, default in (("factor", 8.0), ("low_freq_factor", 1.0), ("high_freq_factor", 4.0))
    )
    context = float(values.get("original_max_position_embeddings", 8192))
    exponents = np.arange(0, size, 2, dtype=np.float32) / np.float32(size)
    frequencies = np.float32(1) / np.power(np.float32(values["rope_theta"] or 10000.0), exponents)
    wavelengths = np.float32(2 * math.pi) / frequencies
    smooth = (np.float32(context) / wavelengths - np.float32(low)) / np.float32(high - low)
    blended = np.float32(1) / ((np.float32(1) - smooth) / np.float32(factor) + smooth)
    factors = np.where(
        wavelengths < context / high, 1.0, np.where(wavelengths > context / low, np.float32(factor), blended)
    )
    return {"rope_freqs.weight": factors.astype(np.float32)}
