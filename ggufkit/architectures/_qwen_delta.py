"""What Qwen 3 Next and 3.5 share: some blocks of linear attention (a gated delta net) to one of full attention.

All norms but that of the delta net are stored minus one. q_proj holds queries and gates, head by head, as ggml wants.
"""

from collections.abc import Iterable
from typing import Any

from ggufkit.architectures._blocks import LAYERS, inner_norms_differ, require_activation, require_experts
from ggufkit.architectures._experts import require_all_sparse, weights_normalized
from ggufkit.architectures._ops import AddOne
from ggufkit.architectures._rope import rotary_dimensions
from ggufkit.architectures._sizes import Config
from ggufkit.architectures._spec import MetadataTable, TensorTable, blocks, to
from ggufkit.errors import CheckpointError

NORMS: TensorTable = {
    "model.norm": to("output_norm", op=AddOne()),
    **blocks(
        LAYERS,
        {
            "input_layernorm": to("attn_norm", op=AddOne()),
            "post_attention_layernorm": to("post_attention_norm", op=AddOne()),
            "self_attn.q_norm": to("attn_q_norm", op=AddOne()),
            "self_attn.k_norm": to("attn_k_norm", op=AddOne()),
            "linear_attn.norm": "ssm_norm",
        },
    ),
}
NEXTN: TensorTable = blocks(
    LAYERS,
    {
        "eh_proj": "nextn.eh_proj",
        "enorm": to("nextn.enorm", op=AddOne()),
        "hnorm": to("nextn.hnorm", op=AddOne()),
        "shared_head.norm": to("nextn.shared_head_norm?", op=AddOne()),
    },
)
DELTA_NET: MetadataTable = {
    "ssm.conv_kernel": "conv",
    "ssm.state_size": "k_dim",
    "ssm.group_count": "k_heads",
    "ssm.time_step_rank": "v_heads",
    "ssm.inner_size": lambda c: c["v_heads"] * c["v_dim"],
    "attention.recurrent_layers": lambda c: (
        [*recurrent_blocks(c), *[False] * c["predicted"]] if c.get("layer_types") else None
    ),
    "full_attention_interval": lambda c: c.get("full_attention_interval", 4),
    "rope.dimension_count": rotary_dimensions,
}
PREDICTED: MetadataTable = {"nextn_predict_layers": lambda c: c["predicted"] or None}
WIDTHS: MetadataTable = {
    "expert_feed_forward_length": "moe_intermediate_size",
    "expert_shared_feed_forward_length": "shared_expert_intermediate_size",
}
SHAPES = {
    "attn_q": "2*heads*head hidden",
    "attn_qkv": "2*k_heads*k_dim+v_heads*v_dim hidden",
    "attn_gate": "v_heads*v_dim hidden",
    "ssm_ba": "2*v_heads hidden",
    "ssm_alpha": "v_heads hidden",
    "ssm_beta": "v_heads hidden",
    "ssm_conv1d": "2*k_heads*k_dim+v_heads*v_dim conv",
    "ssm_a": "v_heads",
    "ssm_dt.bias": "v_heads",
    "ssm_norm": "v_dim",
    "ssm_out": "hidden v_heads*v_dim",
}
RECURRENT = {"attn_qkv": "recurrent"}
MOE_DEFAULTS = {"moe_intermediate_size": 512, "shared_expert_intermediate_size": 512, "norm_topk_prob": True}
DEFAULTS: dict[str, Any] = {
    "rope_theta": 10000.0,
    "rms_norm_eps": 1e-6,
    "partial_rotary_factor": 0.25,
    "max_position_embeddings": 32768,
    "head_dim": 256,
    "linear_conv_kernel_dim": 4,
    "linear_key_head_dim": 128,
    "linear_value_head_dim": 128,
    "linear_num_key_heads": 16,
    "linear_num_value_heads": 32,
}


def recurrent_blocks(config: Config) -> list[bool]:
    """Tell for each block whether its attention is linear."""
    if types := config.get("layer_types"):
        return [name == "linear_attention" for name in types]
    interval = config.get("full_attention_interval", 4)
    return [(block + 1) % interval != 0 for block in range(config["num_hidden_layers"])]


def kinds(config: Config, block: int) -> str:
    """Tell which blocks are recurrent."""
    recurrent = recurrent_blocks(config)
    return "recurrent" if block < len(recurrent) and recurrent[block] else "attention"


def remarks(config: Config) -> Iterable[str]:
    """Refuse another activation, blocks without experts, unequal heads; warn of weights that are not normalized."""
    require_activation(config, "silu")
    if not any(recurrent_blocks(config)):
        raise CheckpointError("config.json: no layer has linear attention; llama.cpp aborts on such a model")
    if config["k_dim"] != config["v_dim"]:
        raise CheckpointError(
            f"config.json: linear_key_head_dim is {config['k_dim']}, linear_value_head_dim {config['v_dim']}; "
            "llama.cpp has them equal"
        )
    require_experts(config)
    require_all_sparse(config)
    yield from inner_norms_differ(config, "queries and keys of linear attention")
    if config.get("experts"):
        yield from weights_normalized(config, computed=True)
