"""The tables that mixture-of-experts models share: experts in every way of storing them, routers, what routes alike."""

from collections.abc import Iterator
from typing import Any

from ggufkit.architectures._blocks import LAYERS, routed_experts
from ggufkit.architectures._expert_ops import SplitGateUp, StackedDown
from ggufkit.architectures._sizes import Config
from ggufkit.architectures._spec import MetadataTable, TensorTable, blocks, maybe, to
from ggufkit.errors import CheckpointError


def fused_experts(moe: str) -> TensorTable:
    """All experts of a block in two tensors, as transformers holds them in memory and some checkpoints have them."""
    return blocks(
        LAYERS,
        {
            f"{moe}.experts.gate_up_proj": to("ffn_gate_exps.weight", "ffn_up_exps.weight", op=SplitGateUp()),
            f"{moe}.experts.down_proj": to("ffn_down_exps.weight", op=StackedDown()),
        },
    )


def either_experts(moe: str = "mlp", *, gate: str = "gate_proj", up: str = "up_proj", down: str = "down_proj") -> Any:
    """A router, and experts stored one by one or fused."""
    return {**routed_experts(moe, gate=gate, up=up, down=down), **fused_experts(moe)}


MLP_EXPERTS: TensorTable = either_experts()
# Mixtral's names, and those that llm-compressor gives its experts when it takes them apart.
W_EXPERTS: TensorTable = {
    **either_experts("block_sparse_moe"),
    **either_experts("block_sparse_moe", gate="w1", up="w3", down="w2"),
}
# Multi-token prediction: what joins a further block to the model, and what it may have of its own.
NEXTN_JOINTS: TensorTable = blocks(
    LAYERS,
    {
        "eh_proj": "nextn.eh_proj",
        "enorm": "nextn.enorm",
        "hnorm": "nextn.hnorm",
        "shared_head.norm": "nextn.shared_head_norm?",
    },
)
NEXTN: TensorTable = {
    **NEXTN_JOINTS,
    **blocks(LAYERS, {"embed_tokens": "nextn.embed_tokens?", "shared_head.head": "nextn.shared_head_head?"}),
}
CORRECTION_BIAS: TensorTable = blocks(LAYERS, {"mlp.gate.e_score_correction_bias": "exp_probs_b.bias?"})
SHARED_EXPERT: TensorTable = blocks(
    LAYERS,
    {
        "mlp.shared_expert.gate_proj": "ffn_gate_shexp",
        "mlp.shared_expert.up_proj": "ffn_up_shexp",
        "mlp.shared_expert.down_proj": "ffn_down_shexp",
        "mlp.shared_expert_gate": "ffn_gate_inp_shexp",
    },
)


def leading_dense(config: Config) -> int:
    """Count the blocks without experts at the front. Raises CheckpointError where there are others further back."""
    types = config.get("mlp_layer_types")
    if not types:
        return int(config["first_k_dense_replace"])
    count = next((block for block, kind in enumerate(types) if kind != "dense"), len(types))
    if "dense" in types[count:]:
        raise CheckpointError("config.json: mlp_layer_types has dense blocks behind sparse ones; llama.cpp cannot")
    return count


def dense_first(config: Config, block: int) -> str:
    """Have experts in all blocks but the first few."""
    return "dense" if block < leading_dense(config) else "sparse"


def require_all_sparse(config: Config) -> None:
    """Refuse a model of the Qwen family in which some blocks have no experts. Raises CheckpointError."""
    if config.get("mlp_only_layers") or (config.get("decoder_sparse_step") or 1) != 1:
        raise CheckpointError(
            "config.json: by mlp_only_layers or decoder_sparse_step some blocks have no experts; "
            "llama.cpp's graph of this architecture has them in all blocks"
        )


def weights_normalized(config: Config, computed: bool, key: str = "norm_topk_prob") -> Iterator[str]:
    """Warn where llama.cpp computes the weights of the chosen experts otherwise: always, or never, normalized."""
    if bool(config.get(key)) is not computed:
        yield (
            f"llama.cpp {'always' if computed else 'never'} normalizes the weights of the chosen experts, "
            f"this model ({key}) {'does not' if computed else 'does'}: its answers differ from the original's"
        )


def groups_divide(config: Config) -> None:
    """Refuse groups of experts on which llama.cpp aborts: unequal ones, or of one expert. Raises CheckpointError."""
    groups, experts = config.get("n_group") or 1, config.get("experts") or 0
    if groups > 1 and (experts % groups or experts // groups < 2):
        raise CheckpointError(f"config.json: {experts} experts do not make {groups} groups (n_group) of two or more")


# The router of DeepSeek V3 and the many that copied it.
CORRECTED_ROUTER: MetadataTable = {
    "leading_dense_block_count": leading_dense,
    "expert_feed_forward_length": "moe_intermediate_size",
    "expert_weights_scale": maybe("routed_scaling_factor"),
    "expert_weights_norm": maybe("norm_topk_prob"),
}
