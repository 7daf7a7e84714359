"""Qwen 2 and 3 with experts in every block: 2 has a gated shared expert and biases, 3 norms its heads instead."""

from collections.abc import Iterable

from ggufkit.architectures._blocks import (
    ATTENTION,
    DECODER,
    EMBEDDINGS,
    EXPERTS,
    HEAD_NORMS,
    OPTIONAL_QKV_BIASES,
    PRE_NORMS,
    require_activation,
    require_experts,
    window_not_applied,
)
from ggufkit.architectures._experts import (
    MLP_EXPERTS,
    SHARED_EXPERT,
    require_all_sparse,
    weights_normalized,
)
from ggufkit.architectures._sizes import Config
from ggufkit.architectures._spec import ArchSpec, MetadataTable

WIDTH: MetadataTable = {"expert_feed_forward_length": "moe_intermediate_size"}
_QWEN = {"rope_theta": 10000.0, "rms_norm_eps": 1e-6, "norm_topk_prob": False, "use_sliding_window": False}


def deepstack_layers(config: Config) -> int:
    """Count the layers into which a vision model's features go."""
    return len((config.get("vision_config") or {}).get("deepstack_visual_indexes") or ())


def _check(config: Config) -> None:
    require_activation(config, "silu")
    require_experts(config)
    require_all_sparse(config)


def remarks(config: Config) -> Iterable[str]:
    """Refuse blocks without experts; warn of normalized weights and of a sliding window."""
    _check(config)
    yield from weights_normalized(config, computed=False)
    yield from window_not_applied(config)


def remarks_3(config: Config) -> Iterable[str]:
    """Refuse blocks without experts; warn of weights that are not normalized, and of a sliding window."""
    _check(config)
    yield from weights_normalized(config, computed=True)
    yield from window_not_applied(config)


QWEN2MOE = ArchSpec(
    name="qwen2moe",
    hf_architectures=("Qwen2MoeForCausalLM",),
    metadata=(DECODER, EXPERTS, WIDTH, {"expert_shared_feed_forward_length": "shared_expert_intermediate_size"}),
    tensors=(EMBEDDINGS, PRE_NORMS, ATTENTION, MLP_EXPERTS, SHARED_EXPERT),
    sizes={"shared_ff": "shared_expert_intermediate_size"},
    biases=OPTIONAL_QKV_BIASES,
    needs_output=True,
    defaults={
        "qwen2_moe": {
            **_QWEN,
            "max_position_embeddings": 32768,
            "num_key_value_heads": 16,
            "intermediate_size": 5632,
            "moe_intermediate_size": 1408,
            "shared_expert_intermediate_size": 5632,
            "num_experts": 60,
            "num_experts_per_tok": 4,
            "sliding_window": 4096,
        }
    },
    remarks=remarks,
)

QWEN3MOE = ArchSpec(
    name="qwen3moe",
    hf_architectures=("Qwen3MoeForCausalLM",),
    metadata=(DECODER, EXPERTS, WIDTH),
    tensors=(EMBEDDINGS, PRE_NORMS, ATTENTION, HEAD_NORMS, MLP_EXPERTS),
    defaults={
        "qwen3_moe": {
            **_QWEN,
            "max_position_embeddings": 32768,
            "num_key_value_heads": 4,
            "intermediate_size": 6144,
            "moe_intermediate_size": 768,
            "num_experts": 128,
            "num_experts_per_tok": 8,
            "sliding_window": 4096,
        }
    },
    remarks=remarks_3,
)

QWEN3VLMOE = ArchSpec(
    name="qwen3vlmoe",
    hf_architectures=("Qwen3VLMoeForConditionalGeneration",),
    metadata=(DECODER, EXPERTS, WIDTH, {"n_deepstack_layers": deepstack_layers}),
    tensors=(EMBEDDINGS, PRE_NORMS, ATTENTION, HEAD_NORMS, MLP_EXPERTS),
    defaults={
        "qwen3_vl_moe": {
            **_QWEN,
            "rope_theta": 500000.0,
            "norm_topk_prob": True,
            "max_position_embeddings": 128000,
            "num_key_value_heads": 16,
            "intermediate_size": 5632,
            "moe_intermediate_size": 1408,
            "num_experts": 60,
            "num_experts_per_tok": 4,
        }
    },
    remarks=remarks_3,
)

SPECS = (QWEN2MOE, QWEN3MOE, QWEN3VLMOE)
