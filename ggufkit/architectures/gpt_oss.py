"""GPT-OSS: fused experts with biases, gate and up taking turns; attention sinks; every other block sees a window."""

from collections.abc import Iterable

from ggufkit.architectures._blocks import (
    ATTENTION,
    DECODER,
    EMBEDDINGS,
    EXPERTS,
    LAYERS,
    require,
    require_activation,
    require_experts,
)
from ggufkit.architectures._expert_ops import SplitGateUp, StackedDown, TakeTurns
from ggufkit.architectures._sizes import Config
from ggufkit.architectures._spec import ArchSpec, MetadataTable, blocks, to
from ggufkit.errors import CheckpointError

BLOCK = blocks(
    LAYERS,
    {
        "input_layernorm": "attn_norm",
        "post_attention_layernorm": "post_attention_norm",
        "self_attn.sinks": "attn_sinks.weight",
        "mlp.router": "ffn_gate_inp",
        "mlp.experts.gate_up_proj": to("ffn_gate_exps.weight", "ffn_up_exps.weight", op=SplitGateUp(interleaved=True)),
        "mlp.experts.down_proj": to("ffn_down_exps.weight", op=StackedDown()),
        "mlp.experts.gate_up_proj_bias": to("ffn_gate_exps.bias", "ffn_up_exps.bias", op=TakeTurns()),
        "mlp.experts.down_proj_bias": "ffn_down_exps.bias",
    },
)
_YARN = {
    "rope_type": "yarn",
    "factor": 32.0,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "original_max_position_embeddings": 4096,
}
WINDOW: MetadataTable = {
    "attention.sliding_window": "sliding_window",
    "expert_feed_forward_length": "intermediate_size",
}


def remarks(config: Config) -> Iterable[str]:
    """Refuse another order of layers, or another clamp of the activation, than llama.cpp computes."""
    require_activation(config, "silu")
    require_experts(config)
    require(config, "llama.cpp computes 1.702", swiglu_alpha=1.702)
    require(config, "llama.cpp computes 7.0", swiglu_limit=7.0)
    layers = config.get("layer_types")
    if layers and layers != ["sliding_attention" if b % 2 == 0 else "full_attention" for b in range(len(layers))]:
        raise CheckpointError("config.json: layer_types do not alternate, as llama.cpp's GPT-OSS does")
    return ()


GPT_OSS = ArchSpec(
    name="gpt-oss",
    hf_architectures=("GptOssForCausalLM",),
    metadata=(DECODER, EXPERTS, WINDOW),
    tensors=(EMBEDDINGS, ATTENTION, BLOCK),
    biases="attn_q? attn_k? attn_v? attn_output ffn_gate_inp",
    needs_output=True,
    spellings={"rope_scaling": ("rope_parameters",)},
    defaults={
        "gpt_oss": {
            "rope_theta": 150000.0,
            "rope_scaling": _YARN,
            "rms_norm_eps": 1e-5,
            "max_position_embeddings": 131072,
            "head_dim": 64,
            "num_key_value_heads": 8,
            "num_experts": 128,
            "num_experts_per_tok": 4,
            "sliding_window": 128,
        }
    },
    remarks=remarks,
)

SPECS = (GPT_OSS,)
