"""Qwen 2, 2.5 and 3, dense: Llama's tensors, roped NEOX-style, so nothing to permute. Qwen 3 norms q and k."""

from collections.abc import Iterable

from ggufkit.architectures._blocks import (
    ATTENTION,
    COMMON_DEFAULTS,
    DECODER,
    EMBEDDINGS,
    GATED_MLP,
    HEAD_NORMS,
    PRE_NORMS,
    QKV_BIASES,
    require_activation,
)
from ggufkit.architectures._sizes import Config
from ggufkit.architectures._spec import ArchSpec

DEFAULTS = {**COMMON_DEFAULTS, "max_position_embeddings": 32768, "num_key_value_heads": 32}


def remarks(config: Config) -> Iterable[str]:
    """Refuse another activation; warn of a sliding window that is switched on, which llama.cpp does not apply."""
    require_activation(config, "silu")
    window = config.get("sliding_window")
    if (window and config.get("use_sliding_window")) or "sliding_attention" in (config.get("layer_types") or ()):
        yield f"llama.cpp does not apply this model's sliding_window of {window}"


QWEN2 = ArchSpec(
    name="qwen2",
    hf_architectures=("Qwen2ForCausalLM",),
    metadata=(DECODER,),
    tensors=(EMBEDDINGS, PRE_NORMS, ATTENTION, GATED_MLP),
    biases=QKV_BIASES,
    # llama.cpp's qwen2 knows no head size but hidden_size / heads
    shapes={"attn_q": "hidden hidden", "attn_output": "hidden hidden"},
    defaults={"qwen2": DEFAULTS},
    remarks=remarks,
)

QWEN3 = ArchSpec(
    name="qwen3",
    hf_architectures=("Qwen3ForCausalLM",),
    metadata=(DECODER,),
    tensors=(EMBEDDINGS, PRE_NORMS, ATTENTION, HEAD_NORMS, GATED_MLP),
    defaults={"qwen3": {**DEFAULTS, "head_dim": 128}},
    remarks=remarks,
)

SPECS = (QWEN2, QWEN3)
