"""MiniCPM 3: latent attention that is not absorbed, and scales that llama.cpp has built in."""

from collections.abc import Iterable

from ggufkit.architectures._blocks import (
    DECODER,
    EMBEDDINGS,
    GATED_MLP,
    LAYERS,
    PRE_NORMS,
    inner_norms_differ,
    require,
    require_activation,
)
from ggufkit.architectures._decoders import ROPE_UNLESS_USUAL, VOCABULARY_SIZE
from ggufkit.architectures._rope import longrope_attention, longrope_factors, rope, stretched_context
from ggufkit.architectures._sizes import Config
from ggufkit.architectures._spec import ArchSpec, MetadataTable, blocks

MLA = blocks(
    LAYERS,
    {
        "self_attn.q_a_proj": "attn_q_a",
        "self_attn.q_a_layernorm": "attn_q_a_norm",
        "self_attn.q_b_proj": "attn_q_b",
        "self_attn.kv_a_proj_with_mqa": "attn_kv_a_mqa",
        "self_attn.kv_a_layernorm": "attn_kv_a_norm",
        "self_attn.kv_b_proj": "attn_kv_b",
        "self_attn.o_proj": "attn_output",
    },
)
MLA_SIZES: MetadataTable = {
    **DECODER,
    **ROPE_UNLESS_USUAL,
    # LongRoPE's factors are tensors, and llama.cpp finds them
    "rope.scaling.type": lambda c: name if (name := rope(c)["rope_type"]) in ("linear", "yarn") else None,
    "rope.scaling.attn_factor": longrope_attention,
    "rope.scaling.original_context_length": stretched_context,
    "attention.q_lora_rank": "q_lora_rank",
    "attention.kv_lora_rank": "kv_lora_rank",
    "attention.key_length": lambda c: c["qk_nope_head_dim"] + c["qk_rope_head_dim"],
    "attention.value_length": lambda c: c["value"] if c["value"] * c["heads"] != c["hidden"] else None,
    "rope.dimension_count": "qk_rope_head_dim",
}
_FIXED = {"scale_emb": 12, "scale_depth": 1.4, "dim_model_base": 256}


def remarks(config: Config) -> Iterable[str]:
    """Refuse another activation, and other scales than llama.cpp computes with."""
    require_activation(config, "silu")
    require(config, "llama.cpp's MiniCPM 3 has its scales built in (src/models/minicpm3.cpp)", **_FIXED)
    yield from inner_norms_differ(config, "latent queries and keys")


MINICPM3 = ArchSpec(
    name="minicpm3",
    hf_architectures=("MiniCPM3ForCausalLM",),
    metadata=(MLA_SIZES, VOCABULARY_SIZE),
    tensors=(EMBEDDINGS, PRE_NORMS, MLA, GATED_MLP),
    defaults={
        "minicpm3": {
            **_FIXED,
            "vocab_size": 73448,
            "hidden_size": 2560,
            "intermediate_size": 6400,
            "num_hidden_layers": 62,
            "num_attention_heads": 40,
            "num_key_value_heads": 40,
            "max_position_embeddings": 32768,
            "rms_norm_eps": 1e-5,
            "rope_theta": 10000.0,
            "q_lora_rank": 768,
            "kv_lora_rank": 256,
            "qk_nope_head_dim": 64,
            "qk_rope_head_dim": 32,
            "tie_word_embeddings": True,
        }
    },
    sizes={
        "head_dim": "qk_rope_head_dim",
        "value": lambda c: c.get("v_head_dim") or c["hidden"] // c["heads"],
    },
    ropes=("linear", "yarn", "longrope"),
    shapes={"attn_kv_b": "heads*nope+heads*value kv_rank", "attn_output": "hidden heads*value"},
    extra_tensors=longrope_factors,
    remarks=remarks,
)

SPECS = (MINICPM3,)
