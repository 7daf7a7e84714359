"""MPT: ALiBi, no biases at all, and settings of attention in an object of their own."""

from collections.abc import Iterable, Mapping
from typing import Any

from ggufkit.architectures._blocks import LAYER_NORM, require
from ggufkit.architectures._decoders import OUTLINE
from ggufkit.architectures._sizes import Config
from ggufkit.architectures._spec import ArchSpec, MetadataTable, TensorTable, blocks
from ggufkit.errors import CheckpointError

ENDS: TensorTable = {"wte": "token_embd", "wpe": "position_embd?", "norm_f": "output_norm", "lm_head": "output?"}
BLOCK = blocks(
    "blocks",
    {
        "norm_1": "attn_norm",
        "attn.Wqkv": "attn_qkv",
        "attn.out_proj": "attn_output",
        "norm_2": "ffn_norm",
        "ffn.up_proj": "ffn_up",
        "ffn.down_proj": "ffn_down",
    },
)


def attention(config: Config) -> Mapping[str, Any]:
    """Read the settings of attention; absent ones are those of transformers."""
    given = config.get("attn_config") or {}
    if not isinstance(given, Mapping):
        raise CheckpointError(f"config.json: attn_config is {given!r}, expected an object")
    return {"alibi": True, "alibi_bias_max": 8, **{key: value for key, value in given.items() if value is not None}}


def key_value_heads(config: Config) -> int:
    """Count key heads; transformers knows only as many as query heads."""
    kind = attention(config).get("attn_type")
    return 1 if kind == "multiquery_attention" else int(attention(config).get("kv_n_heads") or config["heads"])


ATTENTION: MetadataTable = {
    "attention.head_count_kv": lambda c: attention(c).get("kv_n_heads"),
    "attention.clamp_kqv": lambda c: attention(c).get("clip_qkv"),
    "attention.max_alibi_bias": lambda c: float(attention(c)["alibi_bias_max"] if attention(c)["alibi"] else 0),
}


def remarks(config: Config) -> Iterable[str]:
    """Refuse what llama.cpp's MPT has not: scales of its own, norms without LayerNorm's mean, rope, prefixes."""
    require(config, "llama.cpp's MPT does not scale logits or embeddings", embedding_fraction=1.0)
    why = "llama.cpp's MPT attends causally, scaled by the square root of the head size"
    require(attention(config), why, softmax_scale="none", prefix_lm=False, qk_ln=False, qk_gn=False, rope=False)
    require(config, why, logit_scale="none")
    if "layernorm" not in (norm := config.get("norm_type") or "layernorm"):
        raise CheckpointError(f"config.json: norm_type is {norm!r}; llama.cpp computes a LayerNorm")
    return ()


MPT = ArchSpec(
    name="mpt",
    hf_architectures=("MptForCausalLM", "MPTForCausalLM"),
    metadata=(OUTLINE, LAYER_NORM, ATTENTION),
    tensors=(ENDS, BLOCK),
    defaults={
        "mpt": {
            "d_model": 2048,
            "n_heads": 16,
            "n_layers": 24,
            "max_seq_len": 2048,
            "vocab_size": 50368,
            "layer_norm_epsilon": 1e-5,
            "tie_word_embeddings": True,
        }
    },
    sizes={"kv_heads": key_value_heads, "ff": lambda c: c.get("expansion_ratio", 4) * c["hidden"]},
    shapes={"position_embd": "max_position_embeddings hidden"},
    remarks=remarks,
)

SPECS = (MPT,)
