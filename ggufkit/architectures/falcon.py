"""Falcon: attention and feed-forward read the same input, from one norm (7B, 11B) or one each (40B); few key heads."""

from collections.abc import Iterable

from ggufkit.architectures._blocks import LAYER_NORM, require, require_activation
from ggufkit.architectures._decoders import GELU, OUTLINE, ROPE_UNLESS_USUAL
from ggufkit.architectures._head_ops import UngroupQkv
from ggufkit.architectures._ops import Concatenate, Then
from ggufkit.architectures._sizes import Config
from ggufkit.architectures._spec import ArchSpec, TensorTable, Vocabulary, blocks, to

ENDS: TensorTable = {"word_embeddings": "token_embd", "ln_f": "output_norm", "lm_head": "output?"}
BLOCK = blocks(
    "h",
    {
        "input_layernorm": "attn_norm",
        "ln_mlp": "attn_norm",  # llama.cpp feeds the feed-forward from attn_norm, attention from attn_norm_2
        "ln_attn": "attn_norm_2?",
        "self_attention.query_key_value": to("attn_qkv", op=Then(UngroupQkv(), Concatenate())),
        "self_attention.dense": "attn_output",
        "mlp.dense_h_to_4h": "ffn_up",
        "mlp.dense_4h_to_h": "ffn_down",
    },
)


def key_value_heads(config: Config) -> int:
    """Count key heads as the model does: multi-query means one, unless the decoder is of the new kind.

    The first configs ("RefinedWeb") told the new kind by their `n_head_kv` alone.
    """
    given = config.get("num_key_value_heads")
    new = config.get("new_decoder_architecture")
    if config["multi_query"] and not (new if new is not None else given):
        return 1
    return int(given or config["heads"])


def remarks(config: Config) -> Iterable[str]:
    """Refuse ALiBi, biases and blocks in series, which llama.cpp's Falcon has not."""
    require_activation(config, *GELU)
    require(config, "llama.cpp's Falcon has rope, no biases, and parallel blocks", alibi=False, bias=False)
    if not config.get("new_decoder_architecture"):
        require(config, "llama.cpp's Falcon has parallel blocks", parallel_attn=True)
    return ()


DEFAULTS = {
    "vocab_size": 65024,
    "hidden_size": 4544,
    "num_hidden_layers": 32,
    "num_attention_heads": 71,
    "activation": "gelu",
    "multi_query": True,
    "max_position_embeddings": 2048,
    "layer_norm_epsilon": 1e-5,
    "rope_theta": 10000.0,
    "tie_word_embeddings": True,
}

FALCON = ArchSpec(
    name="falcon",
    hf_architectures=("FalconForCausalLM", "RWForCausalLM"),
    metadata=(
        OUTLINE,
        LAYER_NORM,
        ROPE_UNLESS_USUAL,
        {"attention.head_count_kv": "kv_heads", "tensor_data_layout": lambda _: "jploski"},
    ),
    tensors=(ENDS, BLOCK),
    defaults={"falcon": DEFAULTS, "RefinedWeb": DEFAULTS, "RefinedWebModel": DEFAULTS},
    spellings={"hidden_size": ("n_embed",)},
    sizes={"kv_heads": key_value_heads, "ff": lambda c: c.get("ffn_hidden_size") or 4 * c["hidden"]},
    ropes=("linear", "yarn"),
    biases="attn_norm attn_norm_2? output_norm",
    vocabulary=Vocabulary.BYTE_LEVEL,
    remarks=remarks,
)

SPECS = (FALCON,)
