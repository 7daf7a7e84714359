"""Granite: Llama with scales on embeddings, residuals, attention and logits; SWA: windows, sinks, unroped layers."""

from collections.abc import Iterable

from ggufkit.architectures._blocks import (
    ATTENTION,
    DECODER,
    EMBEDDINGS,
    GATED_MLP,
    LAYERS,
    OPTIONAL_ATTENTION_BIASES,
    OPTIONAL_MLP_BIASES,
    PRE_NORMS,
    require_activation,
)
from ggufkit.architectures._decoders import LLAMA_SIZES, PERMUTED_QK, require_sliding, sliding_pattern
from ggufkit.architectures._rope import llama3_frequency_factors, rope
from ggufkit.architectures._sizes import Config
from ggufkit.architectures._spec import ArchSpec, MetadataTable, Vocabulary, blocks
from ggufkit.errors import CheckpointError

SINKS = blocks(LAYERS, {"self_attn.sinks": "attn_sinks.weight"})


def own_head_size(config: Config) -> int | None:
    """Give the head size where it is not what llama.cpp would work out."""
    return config["head"] if config["head"] * config["heads"] != config["hidden"] else None


SCALES: MetadataTable = {
    "attention.scale": "attention_multiplier",
    "embedding_scale": "embedding_multiplier",
    "residual_scale": "residual_multiplier",
    "logit_scale": "logits_scaling",
    "attention.key_length": own_head_size,
    "attention.value_length": own_head_size,
}


def rope_bases(config: Config) -> list[float]:
    """Give the rope base of each layer; 0 where there is no rope."""
    return list(config.get("layer_rope_theta") or [rope(config)["rope_theta"]] * config["layers"])


def _pattern(config: Config) -> list[bool]:
    return sliding_pattern(config) or [block % 4 != 0 for block in range(config["layers"])]


WINDOWS: MetadataTable = {
    "attention.sliding_window": "sliding_window",
    "attention.sliding_window_pattern": _pattern,
    "rope.freq_base": lambda c: max(rope_bases(c)) or rope(c)["rope_theta"],
    "attention.rope_pattern": lambda c: None if all(rope_bases(c)) else [bool(base) for base in rope_bases(c)],
}
DEFAULTS = dict.fromkeys(("embedding_multiplier", "logits_scaling", "residual_multiplier", "attention_multiplier"), 1.0)
BIASES = f"{OPTIONAL_ATTENTION_BIASES} {OPTIONAL_MLP_BIASES}"


def remarks(config: Config) -> Iterable[str]:
    """Refuse another activation, and rope bases that differ from layer to layer."""
    require_activation(config, "silu")
    if len({base for base in rope_bases(config) if base}) > 1:
        raise CheckpointError("config.json: layer_rope_theta has several bases; llama.cpp knows one, and none")
    return ()


def windowed_remarks(config: Config) -> Iterable[str]:
    """Refuse what `remarks` does, and layers of which none slides."""
    require_sliding(config, _pattern(config))
    return remarks(config)


GRANITE = ArchSpec(
    name="granite",
    hf_architectures=("GraniteForCausalLM",),
    metadata=(DECODER, LLAMA_SIZES, SCALES),
    tensors=(EMBEDDINGS, PRE_NORMS, ATTENTION, GATED_MLP, PERMUTED_QK),
    defaults={
        "granite": {
            **DEFAULTS,
            "vocab_size": 32000,
            "hidden_size": 4096,
            "intermediate_size": 11008,
            "num_hidden_layers": 32,
            "num_attention_heads": 32,
            "max_position_embeddings": 2048,
            "rms_norm_eps": 1e-6,
            "rope_theta": 10000.0,
        }
    },
    ropes=("linear", "yarn", "llama3"),
    biases=BIASES,
    extra_tensors=llama3_frequency_factors,
    vocabulary=Vocabulary.LLAMA,
    remarks=remarks,
)

GRANITE_SWA = ArchSpec(
    name="granite_swa",
    hf_architectures=("GraniteSWAForCausalLM",),
    metadata=(DECODER, LLAMA_SIZES, SCALES, WINDOWS),
    tensors=(EMBEDDINGS, PRE_NORMS, ATTENTION, GATED_MLP, PERMUTED_QK, SINKS),
    defaults={
        "granite_swa": {
            **DEFAULTS,
            "vocab_size": 100352,
            "hidden_size": 2560,
            "intermediate_size": 8192,
            "num_hidden_layers": 24,
            "num_attention_heads": 20,
            "num_key_value_heads": 4,
            "max_position_embeddings": 8192,
            "rms_norm_eps": 1e-5,
            "rope_theta": 10000.0,
            "sliding_window": 128,
            "tie_word_embeddings": True,
        }
    },
    ropes=("linear", "yarn", "llama3"),
    biases=BIASES,
    extra_tensors=llama3_frequency_factors,
    vocabulary=Vocabulary.LLAMA,
    remarks=windowed_remarks,
)

SPECS = (GRANITE, GRANITE_SWA)
