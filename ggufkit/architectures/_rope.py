"""Rotary position embeddings: what configs say about them, in all spellings, and what GGUF stores."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from ggufkit.architectures._ops import Array
from ggufkit.architectures._sizes import Config, head_dim
from ggufkit.architectures._spec import MetadataTable
from ggufkit.errors import CheckpointError

# Rope types and their names in GGUF; "llama3" goes into a tensor, "default" needs nothing.
_GGUF_TYPES = {"linear": "linear", "yarn": "yarn", "longrope": "longrope"}
_OLD_NAMES = {"su": "longrope", "mrope": "default"}  # Phi 3's and Qwen 2 VL's first configs
_STRETCHED = ("llama3", "yarn", "longrope")
_LAYER_TYPES = ("full_attention", "sliding_attention")
# Numbers in a rope config, and the least value that makes sense.
_SMALLEST = 1e-9
_NUMBERS = {
    **dict.fromkeys(("rope_theta", "factor", "low_freq_factor", "high_freq_factor"), _SMALLEST),
    **dict.fromkeys(("original_max_position_embeddings", "attention_factor", "attn_factor"), _SMALLEST),
    **dict.fromkeys(("extrapolation_factor", "beta_fast", "beta_slow", "mscale", "mscale_all_dim"), 0),
}
_SAME = 1e-6  # what rounding to float32 may cost
_YARN_BETAS = {"beta_fast": 32, "beta_slow": 1}  # llama.cpp's, whatever the file says
_HINT = "try --converter llama.cpp, and compare the answers with the original model"


def rope(config: Config, layer_type: str = "full_attention") -> dict[str, Any]:
    """Merge `rope_parameters` (transformers 5) or `rope_scaling` (4) with the keys beside them.

    The result has `rope_type` ("default" when none is named), `rope_theta` and `partial_rotary_factor` (None when the
    config is silent); where rope is stretched, also `original_max_position_embeddings`, without a word of it the
    context of the model (transformers' standardize_rope_params). Where layers of different types have settings of
    their own, those of `layer_type`: of transformers 5 nested, of 4 `rope_local_base_freq` and its like.

    Raises:
        CheckpointError: the settings are no object, or hold no sensible numbers.
    """
    nested = config.get("rope_parameters") or config.get("rope_scaling") or {}
    if not isinstance(nested, Mapping):
        raise CheckpointError(f"config.json: rope_scaling is {nested!r}, expected an object")
    by_layer = is_per_layer(nested)
    if by_layer:
        nested = nested.get(layer_type) or {}
    given = {key: value for key, value in nested.items() if value is not None}
    local = None if layer_type == "full_attention" else config.get("rope_local_base_freq")
    if local is not None and not by_layer:
        given = {"rope_theta": local}  # transformers 4 scales the rope of full attention only
    values = {
        "rope_theta": config.get("rope_theta"),
        "partial_rotary_factor": config.get("partial_rotary_factor"),
        **given,
    }
    name = given.get("rope_type") or given.get("type") or "default"
    values["rope_type"] = _OLD_NAMES.get(name, name) if isinstance(name, str) else name
    if values["rope_type"] in _STRETCHED:
        beside = None if by_layer else config.get("original_max_position_embeddings")
        original = beside or given.get("original_max_position_embeddings") or config.get("max_position_embeddings")
        values["original_max_position_embeddings"] = original
    _check_numbers(values)
    return values


def is_per_layer(settings: Mapping[str, Any]) -> bool:
    """Tell whether rope settings are given for each type of layer."""
    return any(isinstance(settings.get(name), Mapping) for name in _LAYER_TYPES)


def check_rope(config: Config, follows: tuple[str, ...]) -> list[str]:
    """Refuse a rope that llama.cpp does not follow for an architecture; `follows` is `ArchSpec.ropes`.

    Returns warnings: of dynamic scaling, which changes nothing up to the context that the model was trained with.

    Raises:
        CheckpointError: the type of scaling, a partial rotation, or settings for each type of layer are not followed.
    """
    nested = config.get("rope_parameters") or config.get("rope_scaling") or {}
    values = rope(config)
    if isinstance(nested, Mapping) and is_per_layer(nested) and "per-layer" not in follows:
        raise CheckpointError(
            "config.json: rope settings of their own for each type of layer: not supported for this architecture",
            hint=_HINT,
        )
    name = values["rope_type"]
    warnings = []
    if name == "dynamic" and name not in follows:
        context = config.get("original_max_position_embeddings") or config.get("max_position_embeddings")
        warnings.append(
            f"llama.cpp does not apply this model's dynamic rope scaling: "
            f"beyond {context} tokens its answers differ from the original's"
        )
    elif not isinstance(name, str) or name not in ("default", *follows):
        raise CheckpointError(
            f"config.json: rope type {name!r} is not supported for this architecture",
            hint=_HINT,
        )
    if name in ("linear", "yarn") and "factor" not in values:
        raise CheckpointError(f"config.json: {name} rope without a factor")
    for key, beta in _YARN_BETAS.items():
        if name == "yarn" and "betas" not in follows and (values.get(key) or beta) != beta:
            raise CheckpointError(f"config.json: {key} of yarn rope is {values[key]}; llama.cpp computes with {beta}")
    if (values["partial_rotary_factor"] or 1) != 1 and "partial" not in follows:
        raise CheckpointError("config.json: partial_rotary_factor is not supported for this architecture")
    if name == "yarn" and values.get("truncate") is False:
        warnings.append(
            "llama.cpp rounds the ends of YaRN's ramp to whole dimensions, this model (truncate) does not: "
            "its answers differ slightly from the original's"
        )
    if name == "longrope" and values.get("long_factor") != values.get("short_factor"):
        original = values["original_max_position_embeddings"]
        warnings.append(
            f"llama.cpp takes LongRoPE's factors for long texts whenever its context is larger than {original} tokens, "
            f"the original only for texts that long: for the same answers to shorter ones run it with -c {original}"
        )
    return warnings


def _check_numbers(values: Mapping[str, Any]) -> None:
    for key, value in values.items():
        if isinstance(value, Mapping):
            raise CheckpointError(
                f"config.json: rope settings of their own for {key!r}: not supported for this architecture",
                hint=_HINT,
            )
        least = _NUMBERS.get(key)
        if least is None or value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value < math.inf:
            raise CheckpointError(f"config.json: {key} of the rope settings is {value!r}, expected a positive number")
    if values.get("high_freq_factor", 4.0) < values.get("low_freq_factor", 1.0):  # Llama 4 Scout has them equal
        raise CheckpointError("config.json: high_freq_factor of the rope settings is below low_freq_factor")
    part = values["partial_rotary_factor"]
    if part is not None and (isinstance(part, bool) or not isinstance(part, int | float) or not 0 < part <= 1):
        raise CheckpointError(f"config.json: partial_rotary_factor is {part!r}, expected a number above 0, at most 1")


def rotary_dimensions(config: Config) -> int:
    """Count the dimensions of a head that are rotated."""
    return int(head_dim(config) * (rope(config)["partial_rotary_factor"] or 1))


def mrope_sections(config: Config) -> list[int] | None:
    """Read how many rotated pairs go by time, height and width (and none by a fourth), as llama.cpp wants them."""
    sections = rope(config).get("mrope_section")
    if sections and sum(sections) > (pairs := rotary_dimensions(config) // 2):
        sections = even_sections(pairs)  # transformers cuts what is too much; ggml aborts
    return [*sections, 0, 0, 0, 0][:4] if sections else None


def even_sections(pairs: int) -> list[int]:
    """Share rotated pairs between time, height and width."""
    return [(pairs + 2) // 3, (pairs + 1) // 3, pairs // 3, 0]


def _scaling(key: str, *types: str) -> Any:
    """Read one key of a rope config, where its type is one of these."""

    def read(config: Config) -> Any:
        values = rope(config)
        return values.get(key) if values["rope_type"] in types else None

    return read


def _original_context(config: Config) -> int | None:
    values = rope(config)
    if values["rope_type"] not in ("yarn", "longrope"):
        return None
    if (original := values["original_max_position_embeddings"]) is None:
        raise CheckpointError(f"config.json: {values['rope_type']} rope without original_max_position_embeddings")
    return int(original)


def _attention_factor(config: Config) -> float | None:
    values = rope(config)
    return values.get("attention_factor", values.get("attn_factor")) if values["rope_type"] == "yarn" else None


def own_attention_factor(config: Config) -> float | None:
    """Give by how much the model's scale of rotated q and k differs from YaRN's usual 0.1 ln(factor) + 1.

    That is attention_factor, or with mscale and mscale_all_dim the quotient of what they make of the usual one.
    llama.cpp takes the usual one (src/llama-context.cpp) times this key; yarn_attn_factor it only stores.
    """
    values = rope(config)
    if values["rope_type"] != "yarn":
        return None
    log = 0.1 * math.log(max(values["factor"], 1))
    part, whole = values.get("mscale"), values.get("mscale_all_dim")
    scaled = (log * part + 1) / (log * whole + 1) if part and whole else log + 1
    own = (_attention_factor(config) or scaled) / (log + 1)
    return own if abs(own - 1) > _SAME else None


def latent_yarn(config: Config) -> tuple[float | None, float | None]:
    """Give rope.scaling.attn_factor and .yarn_log_multiplier by which llama.cpp's latent attention follows YaRN.

    transformers scales rotated q and k by T, and all of attention by S squared: with y(m) = 0.1 m ln(factor) + 1, T is
    attention_factor, else y(mscale) / y(mscale_all_dim), else y(1), and S is y(mscale_all_dim) or 1. llama.cpp
    (src/models/deepseek2.cpp) takes T from the first key, and S = T y(L), L ten times the second; without L, T = S.
    """
    values = rope(config)
    whole = values.get("mscale_all_dim")
    if values["rope_type"] != "yarn" or values["factor"] <= 1:
        return None, None if whole is None else 0.1 * whole
    log = 0.1 * math.log(values["factor"])
    part = values.get("mscale")
    usual = (log * part + 1) / (log * whole + 1) if part and whole else log + 1
    rotated, scale = _attention_factor(config) or usual, log * whole + 1 if whole else 1
    if abs(rotated - scale) < _SAME:
        return rotated / (log + 1), None
    multiplier: float = whole if whole and rotated == 1 else (scale / rotated - 1) / log
    return rotated if rotated != 1 else None, 0.1 * multiplier


ROPE: MetadataTable = {
    "rope.freq_base": lambda config: rope(config)["rope_theta"],
    "rope.scaling.type": lambda config: _GGUF_TYPES.get(rope(config)["rope_type"]),
    "rope.scaling.factor": _scaling("factor", "linear", "yarn"),
    "rope.scaling.original_context_length": _original_context,
    "rope.scaling.attn_factor": own_attention_factor,
    "rope.scaling.yarn_ext_factor": _scaling("extrapolation_factor", "yarn"),
    "rope.scaling.yarn_attn_factor": _attention_factor,
    "rope.scaling.yarn_beta_fast": _scaling("beta_fast", "yarn"),
    "rope.scaling.yarn_beta_slow": _scaling("beta_slow", "yarn"),
    "rope.dimension_sections": mrope_sections,
}


def llama3_frequency_factors(config: Config) -> Mapping[str, Array]:
    """Llama 3.1's per-frequency divisors (head_dim / 2 of them), as `rope_freqs`; empty for other rope types.

    The formula is transformers' `_compute_llama3_parameters`: long wavelengths are divided by `factor`, short ones
    kept, those between blended. Computed in float32, as the model does.
    """
    values = rope(config)
    if values["rope_type"] != "llama3":
        return {}
    size = rotary_dimensions(config)
    factor, low, high = (
        float(values.get(key, default))
        for key, default in (("factor", 8.0), ("low_freq_factor", 1.0), ("high_freq_factor", 4.0))
    )
    context = float(values["original_max_position_embeddings"] or 8192)
    exponents = np.arange(0, size, 2, dtype=np.float32) / np.float32(size)
    # In float64 and rounded once: NumPy's own power of float32 is another one on processors with AVX-512.
    theta = float(np.float32(values["rope_theta"] or 10000.0))
    powers = [math.pow(theta, float(exponent)) for exponent in exponents]
    frequencies = np.float32(1) / np.array(powers, np.float32)
    # torch divides a number by a tensor as the number times the reciprocal: rounding twice
    wavelengths = np.float32(1) / frequencies * np.float32(2 * math.pi)
    between = np.float32(high - low) or np.float32(1)  # where both are equal there is nothing to blend
    smooth = (np.float32(1) / wavelengths * np.float32(context) - np.float32(low)) / between
    blended = np.float32(1) / ((np.float32(1) - smooth) / np.float32(factor) + smooth)
    factors = np.where(
        wavelengths < context / high, 1.0, np.where(wavelengths > context / low, np.float32(factor), blended)
    )
    return {"rope_freqs.weight": factors.astype(np.float32)}


def longrope_factors(config: Config) -> Mapping[str, Array]:
    """The divisors of longrope for long and short contexts, one for each rotated pair; empty for other rope types.

    Raises:
        CheckpointError: factors are missing, or not one for each pair.
    """
    values = rope(config)
    if values["rope_type"] != "longrope":
        return {}
    pairs = rotary_dimensions(config) // 2
    tensors = {}
    for length in ("long", "short"):
        factors = values.get(f"{length}_factor")
        if not isinstance(factors, list) or len(factors) != pairs:
            raise CheckpointError(f"config.json: {length}_factor of the rope settings is not a list of {pairs} numbers")
        tensors[f"rope_factors_{length}.weight"] = np.array(factors, np.float32)
    return tensors


def longrope_attention(config: Config) -> float | None:
    """Scale rotated q and k, as LongRoPE does: sqrt(1 + ln(s) / ln(L)), s the stretch, L the context stretched."""
    values, usual = rope(config), ROPE["rope.scaling.attn_factor"]
    if values["rope_type"] != "longrope":
        return usual(config) if callable(usual) else None
    original = values["original_max_position_embeddings"]
    stretch = values.get("factor") or config["max_position_embeddings"] / original
    given = values.get("attention_factor")
    return given or (math.sqrt(1 + math.log(stretch) / math.log(original)) if stretch > 1 else None)


def stretched_context(config: Config) -> int | None:
    """Give the context before stretching, where it is another: from there on the long factors count."""
    values = rope(config)
    original = values.get("original_max_position_embeddings")
    return original if values["rope_type"] == "yarn" or original != config["max_position_embeddings"] else None
