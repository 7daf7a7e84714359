"""Qwen 2, 2.5 and 3, dense: Llama's tensors, roped NEOX-style, so nothing to permute. Qwen 3 norms q and k."""

from collections.abc import Iterable

from ggufkit.architectures._blocks import (
    ATTENTION,
    ATTENTION_REQUIRED,
    ATTENTION_SHAPES,
    COMMON_DEFAULTS,
    DECODER,
    EMBEDDING_SHAPES,
    EMBEDDINGS,
    ENDS_REQUIRED,
    GATED_MLP,
    HEAD_NORM_SHAPES,
    HEAD_NORMS,
    MLP_REQUIRED,
    MLP_SHAPES,
    PRE_NORMS,
    require_activation,
)
from ggufkit.architectures._sizes import Config
from ggufkit.architectures._spec import ArchSpec, ShapeTable


def remarks(config: Config) -> Iterable[str]:
    """Refuse another activation; warn of a sliding window that is switched on, which llama.cpp does not apply."""
    require_activation(config, "silu")
    window = config.get("sliding_window")
    if (window and config.get("use_sliding_window")) or "sliding_attention" in (config.get("layer_types") or ()):
        yield f"llama.cpp does not apply this model's sliding_window of {window}"


# llama.cpp's qwen2 knows no head size but hidden_size / heads.
SQUARE_SHAPES: ShapeTable = {
    "blk.{b}.attn_q.weight": lambda c: (c["hidden_size"], c["hidden_size"]),
    "blk.{b}.attn_output.weight": lambda c: (c["hidden_size"], c["hidden_size"]),
}


QWEN2 = ArchSpec(
    name="qwen2",
    hf_architectures=("Qwen2ForCausalLM",),
    metadata=(DECODER,),
    tensors=(EMBEDDINGS, PRE_NORMS, ATTENTION, GATED_MLP),
    required=(
        *ENDS_REQUIRED,
        *ATTENTION_REQUIRED,
        *MLP_REQUIRED,
        *((f"blk.{{b}}.attn_{part}.bias",) for part in "qkv"),
    ),
    shapes=(EMBEDDING_SHAPES, ATTENTION_SHAPES, MLP_SHAPES, SQUARE_SHAPES),
    defaults={"Qwen2ForCausalLM": {**COMMON_DEFAULTS, "max_position_embeddings": 32768, "num_key_value_heads": 32}},
    remarks=remarks,
)

QWEN3 = ArchSpec(
    name="qwen3",
    hf_architectures=("Qwen3ForCausalLM",),
    metadata=(DECODER,),
    tensors=(EMBEDDINGS, PRE_NORMS, ATTENTION, HEAD_NORMS, GATED_MLP),
    required=(
        *ENDS_REQUIRED,
        *ATTENTION_REQUIRED,
        *MLP_REQUIRED,
        ("blk.{b}.attn_q_norm.weight",),
        ("blk.{b}.attn_k_norm.weight",),
    ),
    shapes=(EMBEDDING_SHAPES, ATTENTION_SHAPES, HEAD_NORM_SHAPES, MLP_SHAPES),
    defaults={
        "Qwen3ForCausalLM": {
            **COMMON_DEFAULTS,
            "max_position_embeddings": 32768,
            "num_key_value_heads": 32,
            "head_dim": 128,
        }
    },
    remarks=remarks,
)

SPECS = (QWEN2, QWEN3)
