"""GLM-4: half of each head roped in neighbouring pairs, gate and up in one tensor; the 0414 models norm four times."""

from collections.abc import Iterable

from ggufkit.architectures._blocks import (
    ATTENTION,
    DECODER,
    EMBEDDINGS,
    LAYERS,
    OPTIONAL_QKV_BIASES,
    PRE_NORMS,
    require,
    require_activation,
)
from ggufkit.architectures._decoders import OUTLINE, ROTARY
from ggufkit.architectures._rope import rope
from ggufkit.architectures._sizes import Config
from ggufkit.architectures._spec import ArchSpec, MetadataTable, TensorTable, Vocabulary, blocks

FUSED_MLP = blocks(LAYERS, {"mlp.gate_up_proj": "ffn_up", "mlp.down_proj": "ffn_down"})
FUSED = {"ffn_up": "2*ff hidden"}
SANDWICH_NORMS = blocks(
    LAYERS,
    {
        "input_layernorm": "attn_norm",
        "post_self_attn_layernorm": "post_attention_norm",
        "post_attention_layernorm": "ffn_norm",
        "post_mlp_layernorm": "post_ffw_norm",
    },
)
CHATGLM_SIZES: MetadataTable = {
    **OUTLINE,
    "attention.head_count_kv": "kv_heads",
    "attention.layer_norm_rms_epsilon": "rms_norm_eps",
    "rope.freq_base": lambda c: rope(c)["rope_theta"],
    **ROTARY,
}
DEFAULTS = {
    "vocab_size": 151552,
    "hidden_size": 4096,
    "intermediate_size": 13696,
    "num_hidden_layers": 40,
    "num_attention_heads": 32,
    "num_key_value_heads": 2,
    "head_dim": 128,
    "max_position_embeddings": 131072,
    "rms_norm_eps": 1.5625e-07,
    "rope_theta": 10000.0,
    "partial_rotary_factor": 0.5,
}
# The names of the first releases, made by code of their own.
OLD_TENSORS: TensorTable = {
    "transformer.embedding.word_embeddings": "token_embd",
    "transformer.rotary_pos_emb.inv_freq": None,
    "transformer.encoder.final_layernorm": "output_norm",
    "transformer.output_layer": "output?",
    **blocks(
        "transformer.encoder.layers",
        {
            "input_layernorm": "attn_norm",
            "self_attention.query_key_value": "attn_qkv",
            "self_attention.dense": "attn_output",
            "post_attention_layernorm": "ffn_norm",
            "mlp.dense_h_to_4h": "ffn_up",
            "mlp.dense_4h_to_h": "ffn_down",
        },
    ),
}


def remarks(config: Config) -> Iterable[str]:
    """Refuse another activation."""
    require_activation(config, "silu")
    return ()


def old_remarks(config: Config) -> Iterable[str]:
    """Refuse what the first releases could be set to but were not."""
    why = "llama.cpp's GLM has RMSNorms in front, q, k and v biases alone, and rope on half of each head"
    require(config, why, rmsnorm=True, apply_residual_connection_post_layernorm=False, add_bias_linear=False)
    require(config, why, original_rope=True, post_layer_norm=True, prefix_projection=False)
    return ()


CHATGLM = ArchSpec(
    name="chatglm",
    hf_architectures=("GlmForCausalLM",),
    metadata=(CHATGLM_SIZES,),
    tensors=(EMBEDDINGS, PRE_NORMS, ATTENTION, FUSED_MLP),
    defaults={"glm": DEFAULTS},
    ropes=("partial",),
    biases=OPTIONAL_QKV_BIASES,
    shapes={**FUSED, "attn_output": "hidden hidden"},  # llama.cpp knows no head size but hidden_size / heads
    vocabulary=Vocabulary.CHATGLM,
    remarks=remarks,
)

OLD_CHATGLM = ArchSpec(
    name="chatglm",
    hf_architectures=("ChatGLMModel", "ChatGLMForConditionalGeneration"),
    metadata=(CHATGLM_SIZES,),
    tensors=(OLD_TENSORS,),
    defaults={
        "chatglm": {
            "rms_norm_eps": 1e-5,
            "partial_rotary_factor": 0.5,
            "rope_ratio": 1,
            "multi_query_attention": False,
            "tie_word_embeddings": False,
        }
    },
    spellings={
        "rms_norm_eps": ("layernorm_epsilon",),
        "vocab_size": ("padded_vocab_size",),
        "head_dim": ("kv_channels",),
    },
    sizes={
        "kv_heads": lambda c: c["multi_query_group_num"] if c["multi_query_attention"] else c["heads"],
        "rope_theta": lambda c: 10000.0 * c["rope_ratio"],
    },
    ropes=("partial",),
    biases="attn_qkv?",
    shapes={**FUSED, "attn_output": "hidden hidden"},
    vocabulary=Vocabulary.CHATGLM,
    remarks=old_remarks,
)

GLM4 = ArchSpec(
    name="glm4",
    hf_architectures=("Glm4ForCausalLM",),
    metadata=(DECODER, ROTARY),
    tensors=(EMBEDDINGS, SANDWICH_NORMS, ATTENTION, FUSED_MLP),
    defaults={"glm4": DEFAULTS},
    ropes=("linear", "yarn", "partial"),
    biases=OPTIONAL_QKV_BIASES,
    shapes=FUSED,
    vocabulary=Vocabulary.GLM_4,
    remarks=remarks,
)

SPECS = (CHATGLM, OLD_CHATGLM, GLM4)
