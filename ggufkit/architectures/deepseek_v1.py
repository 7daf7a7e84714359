"""DeepSeek's first experts (V1): plain attention, roped as Llama's; the weights of the experts are not normalized."""

from collections.abc import Iterable

from ggufkit.architectures._blocks import (
    ATTENTION,
    COMMON_DEFAULTS,
    DECODER,
    EMBEDDINGS,
    EXPERTS,
    GATED_MLP,
    OPTIONAL_QKV_BIASES,
    PRE_NORMS,
    SHARED_EXPERTS,
    require_activation,
    require_experts,
    routed_experts,
)
from ggufkit.architectures._decoders import PERMUTED_QK
from ggufkit.architectures._experts import dense_first, leading_dense, weights_normalized
from ggufkit.architectures._sizes import Config
from ggufkit.architectures._spec import ArchSpec, MetadataTable
from ggufkit.errors import CheckpointError

SIZES: MetadataTable = {
    "rope.dimension_count": "head",
    "rope.scaling.type": lambda _: "none",
    "vocab_size": "vocab_size",
    "leading_dense_block_count": leading_dense,
    "expert_feed_forward_length": "moe_intermediate_size",
    "expert_weights_scale": lambda _: 1.0,
    "expert_shared_count": "n_shared_experts",
}
ROUTED_EXPERTS = routed_experts("mlp", gate="gate_proj", up="up_proj", down="down_proj")


def remarks(config: Config) -> Iterable[str]:
    """Refuse what llama.cpp's first DeepSeek does not know; warn of normalized weights."""
    require_activation(config, "silu")
    require_experts(config)
    if (frequency := config.get("moe_layer_freq", 1)) != 1:
        raise CheckpointError(f"config.json: moe_layer_freq is {frequency}; llama.cpp knows only 1")
    yield from weights_normalized(config, computed=False)


DEEPSEEK = ArchSpec(
    name="deepseek",
    hf_architectures=("DeepseekForCausalLM",),
    metadata=(DECODER, EXPERTS, SIZES),
    tensors=(EMBEDDINGS, PRE_NORMS, ATTENTION, PERMUTED_QK, GATED_MLP, SHARED_EXPERTS, ROUTED_EXPERTS),
    biases=OPTIONAL_QKV_BIASES,
    kinds=dense_first,
    needs_output=True,
    defaults={
        "deepseek": {
            **COMMON_DEFAULTS,
            "max_position_embeddings": 2048,
            "first_k_dense_replace": 0,
            "norm_topk_prob": False,
            "num_key_value_heads": 32,
        }
    },
    remarks=remarks,
)

SPECS = (DEEPSEEK,)
