"""GLM-4 under the names of its first releases, which came with code of their own."""

from collections.abc import Iterable

from ggufkit.architectures._blocks import require
from ggufkit.architectures._decoders import CHATGLM_SIZES
from ggufkit.architectures._sizes import Config
from ggufkit.architectures._spec import ArchSpec, TensorTable, Vocabulary, blocks

TENSORS: TensorTable = {
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
    """Refuse what the first releases could be set to but were not."""
    why = "llama.cpp's GLM has RMSNorms in front, q, k and v biases alone, and rope on half of each head"
    require(config, why, rmsnorm=True, apply_residual_connection_post_layernorm=False, add_bias_linear=False)
    require(config, why, original_rope=True, post_layer_norm=True, prefix_projection=False)
    return ()


CHATGLM = ArchSpec(
    name="chatglm",
    hf_architectures=("ChatGLMModel", "ChatGLMForConditionalGeneration"),
    metadata=(CHATGLM_SIZES,),
    tensors=(TENSORS,),
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
    shapes={"ffn_up": "2*ff hidden", "attn_output": "hidden hidden"},
    vocabulary=Vocabulary.CHATGLM,
    remarks=remarks,
)

SPECS = (CHATGLM,)
