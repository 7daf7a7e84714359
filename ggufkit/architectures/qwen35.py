"""Qwen 3.5, dense and with experts: the delta net's value heads in tiled order, rope in sections."""

from dataclasses import replace

from ggufkit.architectures._blocks import ATTENTION, DECODER, EMBEDDINGS, EXPERTS, GATED_MLP, LAYERS
from ggufkit.architectures._delta_net import SIZES, TileDecay, TileValueHeads
from ggufkit.architectures._experts import MLP_EXPERTS, SHARED_EXPERT
from ggufkit.architectures._ops import Squeeze, Then
from ggufkit.architectures._qwen_delta import (
    DEFAULTS,
    DELTA_NET,
    MOE_DEFAULTS,
    NEXTN,
    NORMS,
    PREDICTED,
    RECURRENT,
    SHAPES,
    WIDTHS,
    kinds,
    remarks,
)
from ggufkit.architectures._rope import even_sections, mrope_sections, rotary_dimensions
from ggufkit.architectures._sizes import Config
from ggufkit.architectures._spec import ArchSpec, MetadataTable, TensorTable, blocks, to

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
# llama.cpp wants them, and transformers assumes these (Qwen3_5TextRotaryEmbedding); for text all choices are alike.
SECTIONS: MetadataTable = {"rope.dimension_sections": lambda c: mrope_sections(c) or _sections(c)}


def _sections(config: Config) -> list[int]:
    """Assume what transformers does; of a head too small for that, on which ggml aborts, share the pairs evenly."""
    pairs = 32 if config["head"] >= 32 else rotary_dimensions(config) // 2
    return even_sections(pairs)


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
    defaults={"qwen3_5": {**DEFAULTS, "intermediate_size": 12288, "num_key_value_heads": 4}},
    remarks=remarks,
)
QWEN35MOE = replace(
    QWEN35,
    name="qwen35moe",
    hf_architectures=("Qwen3_5MoeForCausalLM", "Qwen3_5MoeForConditionalGeneration"),
    metadata=(DECODER, EXPERTS, WIDTHS, DELTA_NET, SECTIONS, PREDICTED),
    tensors=(EMBEDDINGS, NORMS, ATTENTION, TILED, MLP_EXPERTS, SHARED_EXPERT, NEXTN),
    defaults={
        "qwen3_5_moe": {
            **DEFAULTS,
            **MOE_DEFAULTS,
            "num_key_value_heads": 2,
            "num_experts": 256,
            "num_experts_per_tok": 8,
        }
    },
)

SPECS = (QWEN35, QWEN35MOE)
