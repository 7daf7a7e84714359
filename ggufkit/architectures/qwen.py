"""Qwen 2, 2.5 and 3, dense: Llama's tensors, roped NEOX-style, so nothing to permute. Qwen 3 norms q and k."""

from collections.abc import Iterable

from ggufkit.architectures._blocks import (
    ATTENTION,
    COMMON_DEFAULTS,
    DECODER,
    EMBEDDINGS,
    GATED_MLP,
    HEAD_NORMS,
    LAYERS,
    PRE_NORMS,
    QKV_BIASES,
    require_activation,
)
from ggufkit.architectures._encoders import POOLING
from ggufkit.architectures._sizes import Config
from ggufkit.architectures._spec import ArchSpec, blocks

DEFAULTS = {**COMMON_DEFAULTS, "max_position_embeddings": 32768, "num_key_value_heads": 32}
KORMO_NORMS = blocks(LAYERS, {"pre_attention_layernorm": "attn_norm", "pre_mlp_layernorm": "ffn_norm"})
# llama.cpp's qwen2 knows no head size but hidden_size / heads
SQUARE = {"attn_q": "hidden hidden", "attn_output": "hidden hidden"}


def remarks(config: Config) -> Iterable[str]:
    """Refuse another activation; warn of a sliding window that is switched on, which llama.cpp does not apply."""
    require_activation(config, "silu")
    window, slides = config.get("sliding_window"), "sliding_attention" in (config.get("layer_types") or ())
    if slides or (window and config.get("use_sliding_window")):
        yield (
            f"llama.cpp does not apply this model's sliding_window of {window}: "
            f"beyond {window} tokens its answers differ from the original's"
        )


QWEN2 = ArchSpec(
    name="qwen2",
    hf_architectures=("Qwen2ForCausalLM", "Qwen2Model", "KORMoForCausalLM"),
    metadata=(DECODER, POOLING),
    tensors=(EMBEDDINGS, PRE_NORMS, KORMO_NORMS, ATTENTION, GATED_MLP),
    biases=QKV_BIASES,
    shapes=SQUARE,
    defaults={"qwen2": DEFAULTS},
    remarks=remarks,
)

QWEN3 = ArchSpec(
    name="qwen3",
    hf_architectures=("Qwen3ForCausalLM", "Qwen3Model"),
    metadata=(DECODER, POOLING),
    tensors=(EMBEDDINGS, PRE_NORMS, ATTENTION, HEAD_NORMS, GATED_MLP),
    defaults={"qwen3": {**DEFAULTS, "head_dim": 128}},
    remarks=remarks,
)

SPECS = (QWEN2, QWEN3)
