"""Qwen 3 Next and 3.5: three blocks of linear attention (a gated delta net) to one of full attention, with a gate.

All norms but that of the delta net are stored minus one. q_proj holds queries and gates, head by head, as ggml wants.
"""

from collections.abc import Iterable
from typing import Any

from ggufkit.architectures._blocks import (
    ATTENTION,
    DECODER,
    EMBEDDINGS,
    EXPERTS,
    GATED_MLP,
    LAYERS,
    require_activation,
    require_experts,
)
from ggufkit.architectures._delta_net import SIZES, TileDecay, TileValueHeads, UngroupQkvz
from ggufkit.architectures._experts import MLP_EXPERTS, SHARED_EXPERT, require_all_sparse, weights_normalized
from ggufkit.architectures._ops import AddOne, NegativeExponential, Squeeze, Then
from ggufkit.architectures._rope import mrope_sections, rotary_dimensions
from ggufkit.architectures._sizes import Config
from ggufkit.architectures._spec import ArchSpec, MetadataTable, TensorTable, blocks, to
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
GROUPED: TensorTable = blocks(
    LAYERS,
    {
        "linear_attn.in_proj_qkvz": to("attn_qkv", "attn_gate", op=UngroupQkvz()),
        "linear_attn.in_proj_ba": "ssm_ba",
        "linear_attn.conv1d": to("ssm_conv1d", op=Squeeze()),
        "linear_attn.A_log": to("ssm_a", op=NegativeExponential()),
        "linear_attn.dt_bias": "ssm_dt.bias",
        "linear_attn.out_proj": "ssm_out",
    },
)
TILED: TensorTable = blocks(
    LAYERS,
    {
        "linear_attn.in_proj_qkv": to("attn_qkv", op=TileValueHeads("v_dim", after="2*k_heads*k_dim")),
        "linear_attn.in_proj_z": to("attn_gate", op=TileValueHeads("v_dim")),
        "linear_attn.in_proj_a": to("ssm_alpha", op=TileValueHeads()),
        "linear_attn.in_proj_b": to("ssm_beta", op=TileValueHeads()),
        "linear_attn.conv1d": to("ssm_conv1d", op=Then(Squeeze(), TileValueHeads("v_dim", after="2*k_heads*k_dim"))),
        "linear_attn.A_log": to("ssm_a", op=TileDecay()),
        "linear_attn.dt_bias": to("ssm_dt.bias", op=TileValueHeads()),
        "linear_attn.out_proj": to("ssm_out", op=TileValueHeads("v_dim", columns=True)),
    },
)
DELTA_NET: MetadataTable = {
    "ssm.conv_kernel": "conv",
    "ssm.state_size": "k_dim",
    "ssm.group_count": "k_heads",
    "ssm.time_step_rank": "v_heads",
    "ssm.inner_size": lambda c: c["v_heads"] * c["v_dim"],
    "attention.recurrent_layers": lambda c: (
        [*_recurrent(c), *[False] * c["predicted"]] if c.get("layer_types") else None
    ),
    "full_attention_interval": lambda c: c.get("full_attention_interval", 4),
    "rope.dimension_count": rotary_dimensions,
}
PREDICTED: MetadataTable = {"nextn_predict_layers": lambda c: c["predicted"] or None}
WIDTHS: MetadataTable = {
    "expert_feed_forward_length": "moe_intermediate_size",
    "expert_shared_feed_forward_length": "shared_expert_intermediate_size",
}
# llama.cpp wants them, and transformers assumes these (Qwen3_5TextRotaryEmbedding); for text all choices are alike.
SECTIONS: MetadataTable = {"rope.dimension_sections": lambda c: mrope_sections(c) or _sections(c)}
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
_MOE = {"moe_intermediate_size": 512, "shared_expert_intermediate_size": 512, "norm_topk_prob": True}
_COMMON: dict[str, Any] = {
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


def _sections(config: Config) -> list[int]:
    """Assume what transformers does; of a head too small for that, on which ggml aborts, share the pairs evenly."""
    pairs = 32 if config["head"] >= 32 else rotary_dimensions(config) // 2
    return [(pairs + 2) // 3, (pairs + 1) // 3, pairs // 3, 0]


def _recurrent(config: Config) -> list[bool]:
    """Tell for each block whether its attention is linear."""
    if types := config.get("layer_types"):
        return [name == "linear_attention" for name in types]
    interval = config.get("full_attention_interval", 4)
    return [(block + 1) % interval != 0 for block in range(config["num_hidden_layers"])]


def kinds(config: Config, block: int) -> str:
    """Tell which blocks are recurrent."""
    recurrent = _recurrent(config)
    return "recurrent" if block < len(recurrent) and recurrent[block] else "attention"


def remarks(config: Config) -> Iterable[str]:
    """Refuse another activation, blocks without experts, unequal heads; warn of weights that are not normalized."""
    require_activation(config, "silu")
    if not any(_recurrent(config)):
        raise CheckpointError("config.json: no layer has linear attention; llama.cpp aborts on such a model")
    if config["k_dim"] != config["v_dim"]:
        raise CheckpointError(
            f"config.json: linear_key_head_dim is {config['k_dim']}, linear_value_head_dim {config['v_dim']}; "
            "llama.cpp has them equal"
        )
    require_experts(config)
    require_all_sparse(config)
    if config.get("experts"):
        yield from weights_normalized(config, computed=True)


QWEN3NEXT = ArchSpec(
    name="qwen3next",
    hf_architectures=("Qwen3NextForCausalLM",),
    metadata=(DECODER, EXPERTS, WIDTHS, DELTA_NET, PREDICTED),
    tensors=(EMBEDDINGS, NORMS, ATTENTION, GROUPED, MLP_EXPERTS, SHARED_EXPERT, NEXTN),
    sizes=SIZES,
    shapes=SHAPES,
    kinds=kinds,
    kind_of=RECURRENT,
    ropes=("linear", "yarn", "partial"),
    predicts="mtp_num_hidden_layers",
    defaults={
        "qwen3_next": {
            **_COMMON,
            **_MOE,
            "intermediate_size": 5632,
            "num_key_value_heads": 2,
            "num_experts": 512,
            "num_experts_per_tok": 10,
        }
    },
    remarks=remarks,
)
QWEN35 = ArchSpec(
    name="qwen35",
    hf_architectures=("Qwen3_5ForCausalLM", "Qwen3_5ForConditionalGeneration"),
    metadata=(DECODER, DELTA_NET, SECTIONS, PREDICTED),
    tensors=(EMBEDDINGS, NORMS, ATTENTION, TILED, GATED_MLP, NEXTN),
    sizes=SIZES,
    shapes=SHAPES,
    kinds=kinds,
    kind_of=RECURRENT,
    ropes=("linear", "yarn", "partial"),
    predicts="mtp_num_hidden_layers",
    defaults={"qwen3_5": {**_COMMON, "intermediate_size": 12288, "num_key_value_heads": 4}},
    remarks=remarks,
)
QWEN35MOE = ArchSpec(
    name="qwen35moe",
    hf_architectures=("Qwen3_5MoeForCausalLM", "Qwen3_5MoeForConditionalGeneration"),
    metadata=(DECODER, EXPERTS, WIDTHS, DELTA_NET, SECTIONS, PREDICTED),
    tensors=(EMBEDDINGS, NORMS, ATTENTION, TILED, MLP_EXPERTS, SHARED_EXPERT, NEXTN),
    sizes=SIZES,
    shapes=SHAPES,
    kinds=kinds,
    kind_of=RECURRENT,
    ropes=("linear", "yarn", "partial"),
    predicts="mtp_num_hidden_layers",
    defaults={
        "qwen3_5_moe": {**_COMMON, **_MOE, "num_key_value_heads": 2, "num_experts": 256, "num_experts_per_tok": 8}
    },
    remarks=remarks,
)

SPECS = (QWEN3NEXT, QWEN35, QWEN35MOE)
