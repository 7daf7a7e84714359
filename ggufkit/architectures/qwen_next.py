"""Qwen 3 Next: the delta net's q, k, v and gates in one projection, and experts in every block."""

from ggufkit.architectures._blocks import ATTENTION, DECODER, EMBEDDINGS, EXPERTS, LAYERS
from ggufkit.architectures._delta_net import SIZES, UngroupQkvz
from ggufkit.architectures._experts import MLP_EXPERTS, SHARED_EXPERT
from ggufkit.architectures._ops import NegativeExponential, Squeeze
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
from ggufkit.architectures._spec import ArchSpec, TensorTable, blocks, to

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
            **DEFAULTS,
            **MOE_DEFAULTS,
            "intermediate_size": 5632,
            "num_key_value_heads": 2,
            "num_experts": 512,
            "num_experts_per_tok": 10,
        }
    },
    remarks=remarks,
)

SPECS = (QWEN3NEXT,)
