"""BLOOM: ALiBi in place of positions, a norm on the embeddings, q, k and v of each head side by side."""

from collections.abc import Iterable

from ggufkit.architectures._blocks import LAYER_NORM, require
from ggufkit.architectures._decoders import OUTLINE
from ggufkit.architectures._head_ops import UngroupQkv
from ggufkit.architectures._ops import Concatenate, Then
from ggufkit.architectures._sizes import Config
from ggufkit.architectures._spec import ArchSpec, TensorTable, Vocabulary, blocks, to

ENDS: TensorTable = {
    "word_embeddings": "token_embd",
    "word_embeddings_layernorm": "token_embd_norm",
    "ln_f": "output_norm",
    "lm_head": "output?",
}
BLOCK = blocks(
    "h",
    {
        "input_layernorm": "attn_norm",
        "self_attention.query_key_value": to("attn_qkv", op=Then(UngroupQkv(), Concatenate())),
        "self_attention.dense": "attn_output",
        "post_attention_layernorm": "ffn_norm",
        "mlp.dense_h_to_4h": "ffn_up",
        "mlp.dense_4h_to_h": "ffn_down",
    },
)


def remarks(config: Config) -> Iterable[str]:
    """Refuse residuals taken behind the norm."""
    require(config, "llama.cpp adds what went into the norm", apply_residual_connection_post_layernorm=False)
    return ()


BLOOM = ArchSpec(
    name="bloom",
    hf_architectures=("BloomForCausalLM", "BloomModel"),
    metadata=(OUTLINE, LAYER_NORM, {"attention.head_count_kv": "heads"}),
    tensors=(ENDS, BLOCK),
    defaults={
        "bloom": {
            "vocab_size": 250880,
            "hidden_size": 64,
            "n_layer": 2,
            "n_head": 8,
            "layer_norm_epsilon": 1e-5,
            "tie_word_embeddings": True,
        }
    },
    # ALiBi knows no limit; without seq_length take what the released models were trained with.
    spellings={"hidden_size": ("n_embed",)},
    sizes={
        "kv_heads": "heads",
        "ff": lambda c: 4 * c["hidden"],
        "max_position_embeddings": lambda c: c.get("seq_length") or 2048,
    },
    biases="token_embd_norm attn_norm attn_qkv attn_output ffn_norm ffn_up ffn_down output_norm",
    vocabulary=Vocabulary.BYTE_LEVEL,
    remarks=remarks,
)

SPECS = (BLOOM,)
