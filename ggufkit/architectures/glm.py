"""GLM-4: half of each head roped in neighbouring pairs, gate and up in one tensor; the 0414 models norm four times."""

from collections.abc import Iterable

from ggufkit.architectures._blocks import (
    ATTENTION,
    DECODER,
    EMBEDDINGS,
    LAYERS,
    OPTIONAL_QKV_BIASES,
    PRE_NORMS,
    require_activation,
)
from ggufkit.architectures._decoders import CHATGLM_SIZES, ROTARY
from ggufkit.architectures._sizes import Config
from ggufkit.architectures._spec import ArchSpec, Vocabulary, blocks

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


def remarks(config: Config) -> Iterable[str]:
    """Refuse another activation."""
    require_activation(config, "silu")
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

SPECS = (CHATGLM, GLM4)
