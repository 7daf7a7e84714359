"""Jamba: Mamba's blocks and, once in a period, attention without positions; experts in some of the blocks."""

from collections.abc import Iterable

from ggufkit.architectures import _states as states
from ggufkit.architectures._blocks import (
    ATTENTION,
    BODY,
    LAYERS,
    RMS_NORM,
    require,
    require_activation,
    require_experts,
    routed_experts,
)
from ggufkit.architectures._expert_ops import SplitGateUp, StackedDown
from ggufkit.architectures._sizes import Config
from ggufkit.architectures._spec import ArchSpec, MetadataTable, TensorTable, Vocabulary, blocks, to

FEED_FORWARD = {"gate_proj": "ffn_gate", "up_proj": "ffn_up", "down_proj": "ffn_down"}
TENSORS: TensorTable = {
    "model.embed_tokens": "token_embd",
    "model.final_layernorm": "output_norm",
    "lm_head": "output?",
    **blocks(
        LAYERS,
        {
            "input_layernorm": "attn_norm",
            "pre_ff_layernorm": "ffn_norm",
            **states.inside("mamba", states.MAMBA_MIXER),
            "mamba.dt_layernorm": "ssm_dt_norm",
            "mamba.b_layernorm": "ssm_b_norm",
            "mamba.c_layernorm": "ssm_c_norm",
            **{f"feed_forward.{source}": target for source, target in FEED_FORWARD.items()},
            "feed_forward.experts.gate_up_proj": to("ffn_gate_exps", "ffn_up_exps", op=SplitGateUp()),
            "feed_forward.experts.down_proj": to("ffn_down_exps", op=StackedDown()),
        },
    ),
}
EXPERTS = routed_experts("feed_forward", router="router", gate="gate_proj", up="up_proj", down="down_proj")
SIZES: MetadataTable = {
    "attention.head_count_kv": states.heads_by_block,
    "expert_count": "experts",
    "expert_used_count": lambda c: min(c["num_experts_per_tok"], c["experts"]),
}
EXPERT_DEFAULTS = {"num_experts": 16, "num_experts_per_tok": 2, "expert_layer_period": 2, "expert_layer_offset": 1}
STATE_DEFAULTS = {"mamba_d_state": 16, "mamba_d_conv": 4, "mamba_expand": 2, "mamba_conv_bias": True}


def block_kinds(config: Config) -> list[str]:
    """Say of each block whether it attends, and whether it has experts: with only one, none has."""
    attends = states.every(config, "attn_layer_period", "attn_layer_offset")
    routes = states.every(config, "expert_layer_period", "expert_layer_offset")
    return [
        f"{'attention' if attention else 'recurrent'} {'sparse' if experts and config['experts'] > 1 else 'dense'}"
        for attention, experts in zip(attends, routes, strict=True)
    ]


def remarks(config: Config) -> Iterable[str]:
    """Refuse another activation, or more experts to choose than there are."""
    require_activation(config, "silu")
    require(config, "llama.cpp loads no Jamba but with 2", mamba_expand=2)
    states.require_both_kinds(config)
    if config["experts"] > 1:
        require_experts(config)
    return ()


JAMBA = ArchSpec(
    name="jamba",
    hf_architectures=("JambaForCausalLM",),
    metadata=(BODY, RMS_NORM, states.STATE, SIZES),
    tensors=(TENSORS, ATTENTION, EXPERTS),
    biases=f"{states.STATE_BIASES} ssm_dt",
    kinds=states.kind,
    sizes={
        "inner": lambda c: int(c["mamba_expand"] * c["hidden_size"]),
        "state": "mamba_d_state",
        "kernel": "mamba_d_conv",
        "dt_rank": states.rank("mamba_dt_rank"),
        "head": lambda c: c["hidden_size"] // c["num_attention_heads"],
        "block_kinds": block_kinds,
    },
    shapes={**states.MAMBA_SHAPES, "ssm_dt_norm": "dt_rank", "ssm_b_norm": "state", "ssm_c_norm": "state"},
    defaults={
        "jamba": {
            "rms_norm_eps": 1e-6,
            "max_position_embeddings": 262144,
            "num_key_value_heads": 8,
            "num_experts": 16,
            "num_experts_per_tok": 2,
            "expert_layer_period": 2,
            "expert_layer_offset": 1,
            "attn_layer_period": 8,
            "attn_layer_offset": 4,
            "mamba_d_state": 16,
            "mamba_d_conv": 4,
            "mamba_expand": 2,
            "mamba_conv_bias": True,
        }
    },
    extra_tensors=states.no_conv_bias("mamba_conv_bias", "inner"),
    vocabulary=Vocabulary.LLAMA,
    remarks=remarks,
)

SPECS = (JAMBA,)
