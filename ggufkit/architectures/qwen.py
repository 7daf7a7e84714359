"""Qwen 2, 2.5 and 3, dense, also those that see: Llama's tensors, roped NEOX-style, so nothing to permute.

Qwen 3 norms q and k. The text models of Qwen-VL rope by time, height and width, which for text are one.
"""

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
from ggufkit.architectures._spec import ArchSpec, MetadataTable, blocks

DEFAULTS = {**COMMON_DEFAULTS, "max_position_embeddings": 32768, "num_key_value_heads": 32}
KORMO_NORMS = blocks(LAYERS, {"pre_attention_layernorm": "attn_norm", "pre_mlp_layernorm": "ffn_norm"})
VL_DEFAULTS = {**DEFAULTS, "rope_theta": 1e6, "rms_norm_eps": 1e-5, "num_key_value_heads": 8}
VL3_DEFAULTS = {**DEFAULTS, "rope_theta": 5e5, "max_position_embeddings": 128000, "head_dim": 128}
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


def deepstack_layers(config: Config) -> int:
    """Count the blocks to which the vision tower adds features of its own."""
    vision = config.get("vision_config") or (config.get("thinker_config") or {}).get("vision_config") or {}
    return len(vision.get("deepstack_visual_indexes", []))


DEEPSTACK: MetadataTable = {"n_deepstack_layers": deepstack_layers}

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

QWEN2VL = ArchSpec(
    name="qwen2vl",
    hf_architectures=("Qwen2VLForConditionalGeneration", "Qwen2VLModel", "Qwen2_5_VLForConditionalGeneration"),
    metadata=(DECODER,),
    tensors=(EMBEDDINGS, PRE_NORMS, ATTENTION, GATED_MLP),
    biases=QKV_BIASES,
    shapes=SQUARE,
    defaults={"qwen2_vl_text": VL_DEFAULTS, "qwen2_5_vl_text": VL_DEFAULTS},
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

QWEN3VL = ArchSpec(
    name="qwen3vl",
    hf_architectures=("Qwen3VLForConditionalGeneration",),
    metadata=(DECODER, DEEPSTACK),
    tensors=(EMBEDDINGS, PRE_NORMS, ATTENTION, HEAD_NORMS, GATED_MLP),
    defaults={"qwen3_vl_text": VL3_DEFAULTS},
    remarks=remarks,
)

SPECS = (QWEN2, QWEN2VL, QWEN3, QWEN3VL)
