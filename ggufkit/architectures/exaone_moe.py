"""EXAONE with experts (K-EXAONE): EXAONE 4's windows, norms before the layers, under DeepSeek V3's router."""

from collections.abc import Iterable

from ggufkit.architectures._blocks import (
    ATTENTION,
    DECODER,
    EMBEDDINGS,
    EXPERTS,
    GATED_MLP,
    HEAD_NORMS,
    LAYERS,
    PRE_NORMS,
    SHARED_EXPERTS,
    require_activation,
    require_experts,
)
from ggufkit.architectures._decoders import require_sliding
from ggufkit.architectures._experts import (
    CORRECTED_ROUTER,
    CORRECTION_BIAS,
    MLP_EXPERTS,
    NEXTN_JOINTS,
    groups_divide,
    leading_dense,
)
from ggufkit.architectures._rope import llama3_frequency_factors
from ggufkit.architectures._sizes import Config
from ggufkit.architectures._spec import ArchSpec, MetadataTable, blocks

ROUTING: MetadataTable = {
    "vocab_size": "vocab_size",
    "attention.sliding_window": "sliding_window",
    "attention.sliding_window_pattern": lambda c: _slides(c),
    "expert_shared_count": "num_shared_experts",
    "expert_shared_feed_forward_length": "shared_ff",
    "nextn_predict_layers": "predicted",
    "rope.scaling.type": lambda _: "none",
}

# transformers keeps it beside the router, the released checkpoints within.
ROUTER_BIAS = blocks(LAYERS, {"mlp.e_score_correction_bias": "exp_probs_b.bias?"})


def _layer_types(config: Config) -> list[str]:
    """Read which blocks slide: a list, every so manieth block that does not, or a word of L and G."""
    if types := config.get("layer_types"):
        return list(types)
    pattern, layers = config["sliding_window_pattern"], range(config["num_hidden_layers"])
    if isinstance(pattern, str):
        slides = [pattern[block % len(pattern)] == "L" for block in layers]
    else:
        slides = [(block + 1) % pattern != 0 for block in layers]
    return ["sliding_attention" if slide else "full_attention" for slide in slides]


def _slides(config: Config) -> list[bool]:
    return [kind == "sliding_attention" for kind in _layer_types(config)]


def kinds(config: Config, block: int) -> str:
    """Have experts in all blocks but the first few and those that predict further tokens."""
    return "dense" if block < leading_dense(config) or block >= config["layers"] else "sparse"


def remarks(config: Config) -> Iterable[str]:
    """Refuse another activation, and groups that llama.cpp cannot make."""
    require_activation(config, "silu")
    require_experts(config)
    groups_divide(config)
    require_sliding(config, _slides(config))
    return ()


EXAONE_MOE = ArchSpec(
    name="exaone-moe",
    hf_architectures=("ExaoneMoeForCausalLM", "ExaoneMoEForCausalLM"),
    metadata=(DECODER, EXPERTS, CORRECTED_ROUTER, ROUTING),
    tensors=(
        EMBEDDINGS,
        PRE_NORMS,
        ATTENTION,
        HEAD_NORMS,
        GATED_MLP,
        MLP_EXPERTS,
        SHARED_EXPERTS,
        CORRECTION_BIAS,
        NEXTN_JOINTS,
        ROUTER_BIAS,
    ),
    sizes={"shared_ff": lambda c: c["moe_intermediate_size"] * c["num_shared_experts"]},
    spellings={"first_k_dense_replace": ("first_last_k_dense_replace",)},
    kinds=kinds,
    ropes=("llama3",),
    predicts="num_nextn_predict_layers",
    needs_output=True,
    defaults={
        "exaone_moe": {
            "scoring_func": "sigmoid",
            "rope_theta": 10000.0,
            "rms_norm_eps": 1e-5,
            "max_position_embeddings": 2048,
            "num_key_value_heads": 32,
            "sliding_window": 4096,
            "sliding_window_pattern": 4,
            "first_k_dense_replace": 1,
            "moe_intermediate_size": 1024,
            "num_experts": 64,
            "num_experts_per_tok": 8,
            "num_shared_experts": 1,
            "norm_topk_prob": True,
            "routed_scaling_factor": 2.5,
            "n_group": 1,
            "topk_group": 1,
        }
    },
    extra_tensors=llama3_frequency_factors,
    remarks=remarks,
)

SPECS = (EXAONE_MOE,)
