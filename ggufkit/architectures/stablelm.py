"""StableLM: Llama's shape with LayerNorm, a part of each head roped; the 12B norms each head of q and k by itself."""

from collections.abc import Iterable

from ggufkit.architectures._blocks import ATTENTION, EMBEDDINGS, GATED_MLP, LAYER_NORM, LAYERS, require_activation
from ggufkit.architectures._decoders import OUTLINE, ROPE_UNLESS_USUAL, ROTARY, SQUARE
from ggufkit.architectures._ops import Stack
from ggufkit.architectures._sizes import Config
from ggufkit.architectures._spec import ArchSpec, MetadataTable, Vocabulary, blocks, to

BLOCK = blocks(
    LAYERS,
    {
        "input_layernorm": "attn_norm",
        "post_attention_layernorm": "ffn_norm?",  # none with a parallel residual
        "self_attn.q_layernorm.norms.{e}": to("attn_q_norm?", op=Stack("heads")),
        "self_attn.k_layernorm.norms.{e}": to("attn_k_norm?", op=Stack("kv_heads")),
    },
)
SIZES: MetadataTable = {
    "attention.head_count_kv": "kv_heads",
    "use_parallel_residual": "use_parallel_residual",  # llama.cpp looks at whether there is an ffn_norm
}


def remarks(config: Config) -> Iterable[str]:
    """Refuse another activation."""
    require_activation(config, "silu")
    return ()


STABLELM = ArchSpec(
    name="stablelm",
    hf_architectures=("StableLmForCausalLM", "StableLMEpochForCausalLM"),
    metadata=(OUTLINE, LAYER_NORM, ROPE_UNLESS_USUAL, ROTARY, SIZES),
    tensors=(EMBEDDINGS, ATTENTION, GATED_MLP, BLOCK),
    needs_output=True,
    defaults={
        "stablelm": {
            "vocab_size": 50304,
            "intermediate_size": 6912,
            "hidden_size": 2560,
            "num_hidden_layers": 32,
            "num_attention_heads": 32,
            "num_key_value_heads": 32,
            "max_position_embeddings": 4096,
            "layer_norm_eps": 1e-5,
            "rope_theta": 10000.0,
            "partial_rotary_factor": 0.25,
            "use_parallel_residual": False,
        }
    },
    spellings={"layer_norm_eps": ("norm_eps",)},
    ropes=("linear", "yarn", "partial"),
    biases="attn_norm ffn_norm? output_norm attn_q? attn_k? attn_v?",
    shapes={**SQUARE, "attn_q_norm": "heads head", "attn_k_norm": "kv_heads head"},
    vocabulary=Vocabulary.BYTE_LEVEL,
    remarks=remarks,
)

SPECS = (STABLELM,)
