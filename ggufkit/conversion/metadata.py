"""The metadata that an architecture's spec makes of a config."""

from typing import Any

from ggufkit.architectures import ArchSpec, Maybe
from ggufkit.checkpoints import Config
from ggufkit.errors import CheckpointError

# Keys whose JSON value may be written as an integer but which llama.cpp reads as a 32-bit float (gguf_writer.py: which
# method adds a key as float32).
_FLOATS = (
    *(f"attention.{name}" for name in ("layer_norm_rms_epsilon", "layer_norm_epsilon", "group_norm_epsilon", "scale")),
    *(f"attention.{name}" for name in ("clamp_kqv", "max_alibi_bias", "output_scale", "value_scale")),
    "attention.temperature_scale",
    *("rope.freq_base", "rope.freq_base_swa", "rope.scaling.factor", "rope.scaling.attn_factor", "rope.scaling.alpha"),
    *(f"rope.scaling.yarn_{name}" for name in ("ext_factor", "attn_factor", "beta_fast", "beta_slow")),
    "rope.scaling.yarn_log_multiplier",
    *(f"{name}_logit_softcapping" for name in ("attn", "final", "router")),
    *("logit_scale", "embedding_scale", "residual_scale", "activation_sparsity_scale"),
    *("expert_weights_scale", "expert_group_scale", "swiglu_clamp_exp", "swiglu_clamp_shexp", "hidden_act_alpha"),
    *(f"xielu.{name}" for name in ("alpha_p", "alpha_n", "beta", "eps")),
)


def model_metadata(spec: ArchSpec, config: Config) -> dict[str, Any]:
    """Resolve the spec's metadata tables against a config.

    Raises:
        CheckpointError: a required config key is missing, or a number is of the wrong kind.
    """
    values: dict[str, Any] = {}
    for table in spec.metadata:
        for key, source in table.items():
            values.pop(key, None)
            if isinstance(source, Maybe):
                value = next((config[name] for name in source.keys if config.get(name) is not None), None)
            elif callable(source):
                value = source(config)
            elif source in config:
                value = config[source]
            else:
                raise CheckpointError(f"config.json has no {source!r}, which {spec.name}.{key} needs")
            if value is not None:
                values[key] = _typed(key, value)
    return {f"{spec.name}.{key}": value for key, value in values.items()}


def _typed(key: str, value: Any) -> Any:
    """Give a value the type that llama.cpp's converter gives it: by the key where JSON leaves it open."""
    if key.endswith("_token_id") and (isinstance(value, bool) or not isinstance(value, int)):
        raise CheckpointError(f"config.json: {key} would be {str(value)[:60]!r}, expected the number of one token")
    if isinstance(value, list | tuple):
        return [_typed(key, item) for item in value]
    if isinstance(value, str | bool) and key not in _FLOATS:
        return value
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise CheckpointError(f"config.json: {key} would be {value!r}, expected a number")
    if key in _FLOATS:
        return float(value)
    if not float(value).is_integer():
        raise CheckpointError(f"config.json: {key} would be {value!r}, expected an integer")
    if not -(2**31) <= value < 2**32:
        raise CheckpointError(f"config.json: {key} would be {value}, expected an integer from 0 to 2^32 - 1")
    return int(value)
