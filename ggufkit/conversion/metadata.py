"""The metadata of a converted model: what it is, its sizes, its tokenizer."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gguf
from gguf import GGUFValueType, GGUFWriter

from ggufkit.architectures import ArchSpec, Maybe
from ggufkit.checkpoints import Checkpoint, Config
from ggufkit.checkpoints.vocabulary import Typed, tokenizer_metadata
from ggufkit.errors import CheckpointError
from ggufkit.gguf_file.writer import Value, lay_out

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


def general_metadata(folder: Path, tensors: Sequence[tuple[str, tuple[int, ...]]]) -> dict[str, Any]:
    """Describe the model in `general.*` keys: name, size label, licence, languages, sampling defaults.

    The `gguf` package reads them from the model card, config.json, generation_config.json and the folder's name, with
    the same heuristics as llama.cpp's converter.

    Raises:
        CheckpointError: the model card's front matter or generation_config.json is malformed.
    """
    counts = count_parameters(tensors)
    writer = GGUFWriter(None, "unused")
    logging.getLogger("metadata").setLevel(logging.CRITICAL)  # it narrates its heuristics
    try:
        description = gguf.Metadata.load(None, folder.resolve(), None, counts[0])
        description.name = description.name or folder.resolve().name
        if description.size_label is None and counts[0] > 0:
            description.size_label = gguf.size_label(*counts)
        writer.add_type("model")
        description.set_gguf_meta_model(writer)
        values = {
            key: Value(value.value, value.type)
            for key, value in writer.kv_data[0].items()
            if key != "general.architecture"
        }
        lay_out("unused", values, [])  # a value of the wrong type would come out only when it is written
    except Exception as error:  # it parses strangers' YAML and JSON with no errors of its own
        raise CheckpointError(
            f"{folder}: its name, README.md or generation_config.json is malformed: {error}",
            hint="mend or remove the file",
        ) from error
    return values


def count_parameters(tensors: Sequence[tuple[str, tuple[int, ...]]]) -> tuple[int, int, int, int]:
    """Count parameters for the size label: total, shared, those of one expert, and the number of experts."""
    import numpy as np

    writer = GGUFWriter(None, "unused")
    for name, shape in tensors:
        writer.add_tensor_info(name, shape, np.dtype(np.float32), 0, raw_dtype=gguf.GGMLQuantizationType.F32)
    total, shared, one_expert, experts = writer.get_total_parameter_count()
    return total, shared, one_expert, experts


def tokenizer(checkpoint: Checkpoint, spec: ArchSpec, config: Config) -> dict[str, Any]:
    """Read the checkpoint's tokenizer. Raises CheckpointError when it is missing or malformed."""
    metadata = tokenizer_metadata(checkpoint.folder, config, style=spec.vocabulary.value)
    return {
        key: Value(value.value, GGUFValueType[value.kind]) if isinstance(value, Typed) else value
        for key, value in metadata.items()
    }
