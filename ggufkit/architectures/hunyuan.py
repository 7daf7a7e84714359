"""Hunyuan, dense: norms on roped q and k, and contexts stretched by a larger rope base (NTK by `alpha`)."""

from collections.abc import Callable, Iterable
from typing import Any

from ggufkit.architectures._blocks import (
    ATTENTION,
    DECODER,
    EMBEDDINGS,
    GATED_MLP,
    LAYERS,
    OPTIONAL_QKV_BIASES,
    PRE_NORMS,
    require_activation,
)
from ggufkit.architectures._rope import ROPE, rope
from ggufkit.architectures._sizes import Config
from ggufkit.architectures._spec import ArchSpec, MetadataTable, Vocabulary, blocks
from ggufkit.errors import CheckpointError

NORMS = blocks(LAYERS, {"self_attn.query_layernorm": "attn_q_norm", "self_attn.key_layernorm": "attn_k_norm"})
_STRETCHED = 256 * 1024  # tokens: the context that alpha is for, which the config does not say


def rope_base(config: Config) -> float:
    """Enlarge the base: theta x alpha^(d / (d - 2)), d the head size, as the model does."""
    values, size = rope(config), config["head"]
    theta = float(values["rope_theta"])
    return theta * values["alpha"] ** (size / (size - 2)) if values["rope_type"] == "dynamic" else theta


def _stretched(key: str, value: Any) -> Callable[[Config], Any]:
    """Give `value` where alpha stretches the context, else what is usual."""
    usual = ROPE[key]

    def read(config: Config) -> Any:
        if rope(config)["rope_type"] == "dynamic":
            return value
        return usual(config) if callable(usual) else None

    return read


STRETCHED: MetadataTable = {
    "rope.freq_base": rope_base,
    "context_length": lambda c: _STRETCHED if rope(c)["rope_type"] == "dynamic" else c["max_position_embeddings"],
    "rope.scaling.type": _stretched("rope.scaling.type", "none"),
    "rope.scaling.factor": _stretched("rope.scaling.factor", 1),
    "rope.scaling.original_context_length": _stretched("rope.scaling.original_context_length", _STRETCHED),
}


def remarks(config: Config) -> Iterable[str]:
    """Refuse another activation, and dynamic scaling that depends on the length of the text."""
    require_activation(config, "silu")
    values = rope(config)
    if values["rope_type"] == "dynamic" and not values.get("alpha"):
        raise CheckpointError("config.json: dynamic rope without alpha; llama.cpp's rope does not change with the text")
    return ()


HUNYUAN_DENSE = ArchSpec(
    name="hunyuan-dense",
    hf_architectures=("HunYuanDenseV1ForCausalLM",),
    metadata=(DECODER, STRETCHED),
    tensors=(EMBEDDINGS, PRE_NORMS, ATTENTION, NORMS, GATED_MLP),
    defaults={
        "hunyuan_v1_dense": {
            "vocab_size": 290943,
            "hidden_size": 4096,
            "intermediate_size": 11008,
            "num_hidden_layers": 32,
            "num_attention_heads": 32,
            "max_position_embeddings": 2048,
            "rms_norm_eps": 1e-5,
            "rope_theta": 10000.0,
        }
    },
    ropes=("linear", "yarn", "dynamic"),
    biases=OPTIONAL_QKV_BIASES,
    drops_tied_output=True,
    vocabulary=Vocabulary.BYTE_LEVEL,
    remarks=remarks,
)

SPECS = (HUNYUAN_DENSE,)
