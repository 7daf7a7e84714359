"""Phi 1, 1.5 and 2, which rope a part of each head and run attention beside the MLP; Phi 3 and 4, with fused tensors.

Phi 3 with a long context divides its frequencies by two lists of factors ("longrope"), one for short texts.
"""

import math
from collections.abc import Iterable

from ggufkit.architectures._blocks import (
    BODY,
    COMMON_DEFAULTS,
    DECODER,
    EMBEDDINGS,
    LAYERS,
    PRE_NORMS,
    require_activation,
)
from ggufkit.architectures._rope import longrope_factors, rope, rotary_dimensions
from ggufkit.architectures._sizes import Config
from ggufkit.architectures._spec import ArchSpec, MetadataTable, TensorTable, Vocabulary, blocks
from ggufkit.errors import CheckpointError

PHI2_TENSORS: TensorTable = {
    "model.embed_tokens": "token_embd",
    "model.final_layernorm": "output_norm",
    "lm_head": "output",
    **blocks(
        LAYERS,
        {
            "input_layernorm": "attn_norm",
            "self_attn.q_proj": "attn_q",
            "self_attn.k_proj": "attn_k",
            "self_attn.v_proj": "attn_v",
            "self_attn.dense": "attn_output",
            "mlp.fc1": "ffn_up",
            "mlp.fc2": "ffn_down",
        },
    ),
}
PHI2_SIZES: MetadataTable = {
    "attention.head_count_kv": "kv_heads",
    "attention.layer_norm_epsilon": "layer_norm_eps",
    "rope.dimension_count": rotary_dimensions,
    # llama.cpp's default is written by nobody; another base must not be lost.
    "rope.freq_base": lambda config: base if (base := rope(config)["rope_theta"]) != 10000.0 else None,
}
PHI3_TENSORS = blocks(
    LAYERS,
    {
        "self_attn.qkv_proj": "attn_qkv",
        "self_attn.o_proj": "attn_output",
        "mlp.gate_up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down",
    },
)


def original_context(config: Config) -> int:
    """Read how many tokens the short factors are for; without factors, how many the model was trained with."""
    given = rope(config).get("original_max_position_embeddings") or config.get("original_max_position_embeddings")
    return int(given or config["max_position_embeddings"])


def attention_factor(config: Config) -> float | None:
    """Work out what longrope multiplies queries and keys by: transformers' `_compute_longrope_parameters`."""
    values = rope(config)
    if values["rope_type"] != "longrope":
        return None
    scale = config["max_position_embeddings"] / original_context(config)
    return math.sqrt(1 + math.log(scale) / math.log(original_context(config))) if scale > 1 else 1.0


PHI3_SIZES: MetadataTable = {
    "attention.key_length": lambda _: None,
    "attention.value_length": lambda _: None,
    "attention.sliding_window": lambda c: c.get("sliding_window") or 0,  # 0 tells Phi 4 from the others
    "rope.dimension_count": rotary_dimensions,
    "rope.scaling.type": lambda _: None,
    "rope.scaling.original_context_length": original_context,
    "rope.scaling.attn_factor": attention_factor,
}


def phi2_remarks(config: Config) -> Iterable[str]:
    """Refuse another activation, norms of q and k, or a feed-forward size that llama.cpp does not take."""
    require_activation(config, "gelu_new")
    if config.get("qk_layernorm"):
        raise CheckpointError("config.json: qk_layernorm is true; llama.cpp's Phi 2 norms neither q nor k")
    return ()


def phi3_remarks(config: Config) -> Iterable[str]:
    """Refuse another activation; warn of a sliding window, which llama.cpp switched off for this architecture."""
    require_activation(config, "silu")
    window, context = config.get("sliding_window"), config["max_position_embeddings"]
    if window and window < context:
        yield (
            f"llama.cpp does not apply this model's sliding_window of {window}: "
            f"beyond {window} tokens its answers differ from the original's"
        )


PHI2 = ArchSpec(
    name="phi2",
    hf_architectures=("PhiForCausalLM",),
    metadata=(BODY, PHI2_SIZES),
    tensors=(PHI2_TENSORS,),
    biases="output_norm output attn_norm attn_q attn_k attn_v attn_output ffn_up ffn_down",
    ropes=("partial",),
    defaults={
        "phi": {
            "rope_theta": 10000.0,
            "partial_rotary_factor": 0.5,
            "layer_norm_eps": 1e-5,
            "max_position_embeddings": 2048,
        }
    },
    vocabulary=Vocabulary.BYTE_LEVEL,
    remarks=phi2_remarks,
)
PHI3 = ArchSpec(
    name="phi3",
    hf_architectures=("Phi3ForCausalLM",),
    metadata=(DECODER, PHI3_SIZES),
    tensors=(EMBEDDINGS, PRE_NORMS, PHI3_TENSORS),
    shapes={"ffn_up": "2*ff hidden"},
    ropes=("longrope", "partial"),
    defaults={
        "phi3": {
            **COMMON_DEFAULTS,
            "rms_norm_eps": 1e-5,
            "max_position_embeddings": 4096,
            "original_max_position_embeddings": 4096,
        }
    },
    extra_tensors=longrope_factors,
    remarks=phi3_remarks,
)

SPECS = (PHI2, PHI3)
