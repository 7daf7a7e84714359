"""AFMoE (Arcee Trinity): gated attention between two norms, windows in three blocks of four, only those roped."""

from collections.abc import Iterable

from ggufkit.architectures._blocks import (
    ATTENTION,
    DECODER,
    EMBEDDINGS,
    EXPERTS,
    GATED_MLP,
    HEAD_NORMS,
    LAYERS,
    SHARED_EXPERTS,
    require_activation,
    require_experts,
)
from ggufkit.architectures._experts import MLP_EXPERTS, dense_first, leading_dense
from ggufkit.architectures._sizes import Config
from ggufkit.architectures._spec import ArchSpec, MetadataTable, Vocabulary, blocks, maybe
from ggufkit.errors import CheckpointError

BLOCK = blocks(
    LAYERS,
    {
        "input_layernorm": "attn_norm",
        "post_attention_layernorm": "post_attention_norm",
        "pre_mlp_layernorm": "ffn_norm",
        "post_mlp_layernorm": "post_ffw_norm",
        "self_attn.gate_proj": "attn_gate",
        "mlp.router.gate": "ffn_gate_inp",
        "mlp.expert_bias": "exp_probs_b.bias",
    },
)
# The model's router is a module of its own.
EXPERTS_ALONE = {source: entry for source, entry in MLP_EXPERTS.items() if not str(source).endswith("mlp.gate")}
OPTIONAL_SHARED = {source: f"{target}?" for source, target in SHARED_EXPERTS.items()}
NUMBERS: MetadataTable = {
    "vocab_size": "vocab_size",
    "rope.dimension_count": "head",
    "attention.sliding_window": maybe("sliding_window"),
    "expert_feed_forward_length": "moe_intermediate_size",
    "expert_shared_count": "num_shared_experts",
    "leading_dense_block_count": leading_dense,
    "expert_weights_norm": "route_norm",
    "expert_weights_scale": maybe("route_scale"),
}


def remarks(config: Config) -> Iterable[str]:
    """Refuse another activation, an order of windows that is not roped as llama.cpp does, unscaled embeddings."""
    require_activation(config, "silu")
    require_experts(config)
    layers = range(config["num_hidden_layers"])
    every = config["global_attn_every_n_layers"]
    types = config.get("layer_types") or [
        "full_attention" if (b + 1) % every == 0 else "sliding_attention" for b in layers
    ]
    if types != ["full_attention" if b % 4 == 3 else "sliding_attention" for b in layers]:
        raise CheckpointError("config.json: layer_types are not three sliding to one full, as in llama.cpp's AFMoE")
    if not config.get("mup_enabled"):
        yield "llama.cpp always scales the embeddings, this model (mup_enabled) does not: its answers differ"


AFMOE = ArchSpec(
    name="afmoe",
    hf_architectures=("AfmoeForCausalLM",),
    metadata=(DECODER, EXPERTS, NUMBERS),
    tensors=(EMBEDDINGS, BLOCK, ATTENTION, HEAD_NORMS, GATED_MLP, EXPERTS_ALONE, OPTIONAL_SHARED),
    spellings={"scoring_func": ("score_func",), "first_k_dense_replace": ("num_dense_layers",)},
    sizes={"shared_ff": lambda c: c["moe_intermediate_size"] * c["num_shared_experts"]},
    shapes={"attn_gate": "heads*head hidden"},
    kinds=dense_first,
    kind_of={"attn_gate": "attention"},
    defaults={
        "afmoe": {
            "rope_theta": 10000.0,
            "rms_norm_eps": 1e-5,
            "max_position_embeddings": 16384,
            "head_dim": 128,
            "sliding_window": 1024,
            "global_attn_every_n_layers": 4,
            "first_k_dense_replace": 1,
            "moe_intermediate_size": 1408,
            "num_experts": 64,
            "num_experts_per_tok": 6,
            "num_shared_experts": 2,
            "route_norm": True,
            "route_scale": 1.0,
            "mup_enabled": False,
        }
    },
    vocabulary=Vocabulary.LLAMA,
    remarks=remarks,
)

SPECS = (AFMOE,)
