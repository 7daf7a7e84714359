"""LFM 2 with experts: LFM 2's blocks, of which all but the first few have a router with a bias."""

from collections.abc import Iterable, Mapping

import numpy as np

from ggufkit.architectures._blocks import BODY, EXPERTS, LAYERS, RMS_NORM, require_experts
from ggufkit.architectures._experts import dense_first, either_experts, leading_dense, weights_normalized
from ggufkit.architectures._ops import Array
from ggufkit.architectures._rope import ROPE
from ggufkit.architectures._sizes import Config
from ggufkit.architectures._spec import ArchSpec, MetadataTable, Vocabulary, blocks
from ggufkit.architectures._states import require_both_kinds
from ggufkit.architectures.lfm2 import GATED_MLP, SHAPES, SIZES, TENSORS, block_kinds

MOE = {
    **either_experts("feed_forward", gate="w1", up="w3", down="w2"),
    **blocks(LAYERS, {"feed_forward.expert_bias": "exp_probs_b.bias?"}),
}
ROUTING: MetadataTable = {
    "expert_feed_forward_length": "moe_intermediate_size",
    "leading_dense_block_count": leading_dense,
}


def no_correction(config: Config) -> Mapping[str, Array]:
    """Make biases of zero for a model without: llama.cpp wants one for every router."""
    if config["use_expert_bias"]:
        return {}
    zeros = np.zeros(config["num_experts"], np.float32)
    sparse = range(leading_dense(config), config["layers"])
    return {f"blk.{block}.exp_probs_b.bias": zeros for block in sparse}


def remarks(config: Config) -> Iterable[str]:
    """Warn of weights of experts that llama.cpp normalizes and does not scale."""
    require_both_kinds(config)
    require_experts(config)
    yield from weights_normalized(config, computed=True)
    if config["routed_scaling_factor"] != 1:
        yield "llama.cpp does not scale this architecture's experts (routed_scaling_factor): its answers differ"


LFM2_MOE = ArchSpec(
    name="lfm2moe",
    hf_architectures=("Lfm2MoeForCausalLM",),
    metadata=(BODY, RMS_NORM, ROPE, EXPERTS, SIZES, ROUTING),
    tensors=(TENSORS, GATED_MLP, MOE),
    spellings={
        "tie_word_embeddings": ("tie_embedding",),
        "first_k_dense_replace": ("num_dense_layers",),
        "rope_theta": ("theta",),
    },
    sizes={"block_kinds": block_kinds},
    shapes=SHAPES,
    kinds=lambda config, block: f"{config['block_kinds'][block]} {dense_first(config, block)}",
    defaults={
        "lfm2_moe": {
            "scoring_func": "sigmoid",
            "rope_theta": 1000000.0,
            "rms_norm_eps": 1e-5,
            "max_position_embeddings": 128000,
            "num_key_value_heads": 8,
            "intermediate_size": 7168,
            "conv_L_cache": 3,
            "first_k_dense_replace": 2,
            "moe_intermediate_size": 1792,
            "num_experts": 32,
            "num_experts_per_tok": 4,
            "use_expert_bias": True,
            "norm_topk_prob": True,
            "routed_scaling_factor": 1.0,
            "tie_word_embeddings": True,
        }
    },
    extra_tensors=no_correction,
    vocabulary=Vocabulary.BYTE_LEVEL,
    remarks=remarks,
)

SPECS = (LFM2_MOE,)
