"""Dots 1: Qwen 3's attention, as many key heads as query heads, under DeepSeek V3's router."""

from collections.abc import Iterable

from ggufkit.architectures._blocks import (
    ATTENTION,
    DECODER,
    EMBEDDINGS,
    EXPERTS,
    GATED_MLP,
    HEAD_NORMS,
    OPTIONAL_QKV_BIASES,
    PRE_NORMS,
    SHARED_EXPERTS,
    require_activation,
    require_experts,
    window_not_applied,
)
from ggufkit.architectures._experts import CORRECTED_ROUTER, CORRECTION_BIAS, MLP_EXPERTS, dense_first, groups_divide
from ggufkit.architectures._sizes import Config
from ggufkit.architectures._spec import ArchSpec
from ggufkit.errors import CheckpointError


def remarks(config: Config) -> Iterable[str]:
    """Refuse fewer key heads than query heads, which llama.cpp does not load; warn of a sliding window."""
    require_activation(config, "silu")
    require_experts(config)
    groups_divide(config)
    if config["kv_heads"] != config["heads"]:
        raise CheckpointError(
            "config.json: num_key_value_heads is not num_attention_heads, as llama.cpp's Dots 1 has it"
        )
    if config.get("layer_types"):
        yield from window_not_applied(config)


DOTS1 = ArchSpec(
    name="dots1",
    hf_architectures=("Dots1ForCausalLM",),
    metadata=(DECODER, EXPERTS, CORRECTED_ROUTER, {"expert_shared_count": "n_shared_experts"}),
    tensors=(EMBEDDINGS, PRE_NORMS, ATTENTION, HEAD_NORMS, GATED_MLP, MLP_EXPERTS, SHARED_EXPERTS, CORRECTION_BIAS),
    biases=OPTIONAL_QKV_BIASES,
    kinds=dense_first,
    needs_output=True,
    defaults={
        "dots1": {
            "scoring_func": "sigmoid",
            "rope_theta": 10000.0,
            "rms_norm_eps": 1e-6,
            "max_position_embeddings": 2048,
            "num_key_value_heads": 32,
            "moe_intermediate_size": 1408,
            "n_group": 1,
            "topk_group": 1,
            "first_k_dense_replace": 0,
            "norm_topk_prob": False,
            "routed_scaling_factor": 1.0,
            "sliding_window": 4096,
        }
    },
    remarks=remarks,
)

SPECS = (DOTS1,)
