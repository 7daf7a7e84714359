"""ERNIE 4.5 with experts: chosen by a softmax and a correction, from some block on."""

from collections.abc import Iterable

from ggufkit.architectures._blocks import (
    ATTENTION,
    DECODER,
    EMBEDDINGS,
    EXPERTS,
    GATED_MLP,
    LAYERS,
    PRE_NORMS,
    require_activation,
    require_experts,
)
from ggufkit.architectures._experts import MLP_EXPERTS
from ggufkit.architectures._sizes import Config
from ggufkit.architectures._spec import ArchSpec, MetadataTable, Vocabulary, blocks
from ggufkit.errors import CheckpointError

SHARED = blocks(
    LAYERS,
    {
        "mlp.moe_statics.e_score_correction_bias": "exp_probs_b.bias?",
        "mlp.gate.moe_statics.e_score_correction_bias": "exp_probs_b.bias?",
        "mlp.shared_experts.gate_proj": "ffn_gate_shexp?",
        "mlp.shared_experts.up_proj": "ffn_up_shexp?",
        "mlp.shared_experts.down_proj": "ffn_down_shexp?",
    },
)
ROUTING: MetadataTable = {
    "interleave_moe_layer_step": "moe_layer_interval",
    "leading_dense_block_count": "moe_layer_start_index",
    "expert_feed_forward_length": "moe_intermediate_size",
    "expert_shared_count": "moe_num_shared_experts",
    "expert_shared_feed_forward_length": lambda c: c["shared_ff"] or None,
}


def remarks(config: Config) -> Iterable[str]:
    """Refuse another activation, biases, and blocks without experts further back: llama.cpp loads none."""
    require_activation(config, "silu")
    require_experts(config)
    last = config["num_hidden_layers"] - 1
    if config["moe_layer_interval"] != 1 or config["moe_layer_end_index"] not in (-1, last):
        raise CheckpointError(
            "config.json: by moe_layer_interval or moe_layer_end_index there are dense blocks behind the first one "
            "with experts; llama.cpp does not load such an ERNIE"
        )
    return ()


ERNIE_MOE = ArchSpec(
    name="ernie4_5-moe",
    hf_architectures=("Ernie4_5_MoeForCausalLM",),
    metadata=(DECODER, EXPERTS, ROUTING),
    tensors=(EMBEDDINGS, PRE_NORMS, ATTENTION, GATED_MLP, MLP_EXPERTS, SHARED),
    spellings={"num_experts_per_tok": ("moe_k",)},
    sizes={"shared_ff": lambda c: c["moe_intermediate_size"] * c["moe_num_shared_experts"]},
    shapes={"exp_probs_b.bias": "1 experts"},
    kinds=lambda config, block: "dense" if block < config["moe_layer_start_index"] else "sparse",
    defaults={
        "ernie4_5_moe": {
            "rope_theta": 500000.0,
            "rms_norm_eps": 1e-5,
            "max_position_embeddings": 131072,
            "num_key_value_heads": 4,
            "moe_intermediate_size": 1536,
            "num_experts": 64,
            "num_experts_per_tok": 6,
            "moe_num_shared_experts": 2,
            "moe_layer_start_index": 1,
            "moe_layer_end_index": -1,
            "moe_layer_interval": 1,
            "tie_word_embeddings": True,
        }
    },
    vocabulary=Vocabulary.ERNIE,
    remarks=remarks,
)

SPECS = (ERNIE_MOE,)
