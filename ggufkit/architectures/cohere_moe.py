"""Cohere 2 with experts: attention and experts side by side after one norm; only windowed blocks are roped."""

from collections.abc import Iterable

from ggufkit.architectures._blocks import (
    ATTENTION,
    BODY,
    EMBEDDINGS,
    EXPERTS,
    GATED_MLP,
    LAYERS,
    SHARED_EXPERTS,
    require,
    require_activation,
    require_experts,
)
from ggufkit.architectures._decoders import require_sliding
from ggufkit.architectures._experts import MLP_EXPERTS, NEXTN, dense_first, leading_dense
from ggufkit.architectures._rope import ROPE
from ggufkit.architectures._sizes import Config
from ggufkit.architectures._spec import ArchSpec, MetadataTable, blocks, maybe
from ggufkit.errors import CheckpointError

NORM = blocks(LAYERS, {"input_layernorm": "attn_norm"})
OPTIONAL_SHARED = {source: f"{target}?" for source, target in SHARED_EXPERTS.items()}
NUMBERS: MetadataTable = {
    "attention.layer_norm_epsilon": "layer_norm_eps",
    "attention.layer_norm_rms_epsilon": maybe("rms_norm_eps"),
    "logit_scale": "logit_scale",
    "vocab_size": "vocab_size",
    "attention.sliding_window": "sliding_window",
    "attention.sliding_window_pattern": lambda c: _slides(c),
    "leading_dense_block_count": leading_dense,
    "expert_feed_forward_length": "intermediate_size",
    # A softmax over the chosen is one over all, normalized; of the sigmoid the config tells.
    "expert_weights_norm": lambda c: c["scoring_func"] == "softmax" or bool(c["norm_topk_prob"]),
    "expert_shared_count": lambda c: c["num_shared_experts"] or None,
    "expert_shared_feed_forward_length": lambda c: c["shared_ff"] or None,
    "nextn_predict_layers": lambda c: c["predicted"] or None,
    "rope.dimension_count": "head",
    "rope.scaling.type": lambda _: "none",
}


def _layer_types(config: Config) -> list[str]:
    """Read which blocks slide; older configs say it by two intervals, for the dense blocks in front and the others."""
    if types := config.get("layer_types"):
        return list(types)
    dense = leading_dense(config)
    slides = [(b + 1) % config["prefix_dense_sliding_window_pattern"] != 0 for b in range(dense)]
    slides += [(b + 1) % config["sliding_window_pattern"] != 0 for b in range(config["num_hidden_layers"] - dense)]
    return ["sliding_attention" if slide else "full_attention" for slide in slides]


def _slides(config: Config) -> list[bool]:
    return [kind == "sliding_attention" for kind in _layer_types(config)]


def remarks(config: Config) -> Iterable[str]:
    """Refuse what llama.cpp does not compute: a sum with shared experts, dense blocks that are not roped."""
    require_activation(config, "silu")
    require_experts(config)
    require_sliding(config, _slides(config))
    if config["num_shared_experts"]:
        require(config, "llama.cpp takes the average", shared_expert_combination_strategy="average")
    unroped = "full_attention" in _layer_types(config)[: leading_dense(config)]
    if unroped and config["prefix_dense_sliding_window_pattern"] != 1:
        raise CheckpointError("config.json: dense blocks with full attention are not roped here; llama.cpp ropes them")
    return ()


COHERE2_MOE = ArchSpec(
    name="cohere2moe",
    hf_architectures=("Cohere2MoeForCausalLM",),
    metadata=(BODY, ROPE, EXPERTS, NUMBERS),
    tensors=(EMBEDDINGS, NORM, ATTENTION, GATED_MLP, MLP_EXPERTS, OPTIONAL_SHARED, NEXTN),
    spellings={"scoring_func": ("expert_selection_fn",)},
    sizes={
        "ff": lambda c: c.get("prefix_dense_intermediate_size") or c["intermediate_size"],
        "expert_ff": "intermediate_size",
        "shared_ff": lambda c: c["intermediate_size"] * c["num_shared_experts"],
    },
    kinds=dense_first,
    ropes=(),
    predicts="num_nextn_predict_layers",
    defaults={
        "cohere2_moe": {
            "scoring_func": "softmax",
            "rope_theta": 10000.0,
            "layer_norm_eps": 1e-5,
            "logit_scale": 0.0625,
            "max_position_embeddings": 8192,
            "head_dim": 128,
            "sliding_window": 4096,
            "sliding_window_pattern": 4,
            "prefix_dense_sliding_window_pattern": 1,
            "first_k_dense_replace": 0,
            "num_experts": 8,
            "num_experts_per_tok": 2,
            "num_shared_experts": 0,
            "shared_expert_combination_strategy": "average",
            "norm_topk_prob": True,
            "tie_word_embeddings": True,
        }
    },
    remarks=remarks,
)

SPECS = (COHERE2_MOE,)
