"""Llama 4, text: a shared expert beside the routed ones in every so manieth block; one block in four is not roped."""

from collections.abc import Iterable

from ggufkit.architectures._blocks import (
    ATTENTION,
    DECODER,
    EMBEDDINGS,
    EXPERTS,
    LAYERS,
    PRE_NORMS,
    require_activation,
    require_experts,
)
from ggufkit.architectures._expert_ops import SplitGateUp, StackedDown
from ggufkit.architectures._rope import llama3_frequency_factors
from ggufkit.architectures._sizes import Config
from ggufkit.architectures._spec import ArchSpec, MetadataTable, Vocabulary, blocks, to
from ggufkit.errors import CheckpointError

FEED_FORWARD = blocks(
    LAYERS,
    {
        "feed_forward.gate_proj": "ffn_gate",
        "feed_forward.up_proj": "ffn_up",
        "feed_forward.down_proj": "ffn_down",
        "feed_forward.router": "ffn_gate_inp",
        "feed_forward.experts.gate_up_proj": to("ffn_gate_exps.weight", "ffn_up_exps.weight", op=SplitGateUp()),
        "feed_forward.experts.down_proj": to("ffn_down_exps.weight", op=StackedDown()),
        "feed_forward.shared_expert.gate_proj": "ffn_gate_shexp",
        "feed_forward.shared_expert.up_proj": "ffn_up_shexp",
        "feed_forward.shared_expert.down_proj": "ffn_down_shexp",
    },
)
NUMBERS: MetadataTable = {
    "vocab_size": "vocab_size",
    "rope.dimension_count": "head",
    "interleave_moe_layer_step": "interleave_moe_layer_step",
    "expert_feed_forward_length": "intermediate_size",
}
_CHUNK, _ROPED_IN_FOUR, _UNNORMED_EXPERTS = 8192, 4, 128  # constants of llama.cpp: src/models/llama4.cpp


def remarks(config: Config) -> Iterable[str]:
    """Refuse an order of layers or norms that llama.cpp has not; warn of another chunk or temperature."""
    require_activation(config, "silu")
    require_experts(config)
    layers = range(config["num_hidden_layers"])
    step = config["interleave_moe_layer_step"]
    if (sparse := config.get("moe_layers")) is not None and sparse != [b for b in layers if (b + 1) % step == 0]:
        raise CheckpointError(
            "config.json: moe_layers are not every interleave_moe_layer_step-th; llama.cpp wants that"
        )
    if len(layers) < _ROPED_IN_FOUR:
        raise CheckpointError(f"config.json: {len(layers)} layers; llama.cpp aborts on a Llama 4 of fewer than four")
    expected = [int((b + 1) % _ROPED_IN_FOUR != 0) for b in layers]
    types = config.get("layer_types")
    if types and list(types) != ["chunked_attention" if roped else "full_attention" for roped in expected]:
        raise CheckpointError("config.json: layer_types are not those of llama.cpp's Llama 4: one in four is full")
    if (roped := config.get("no_rope_layers")) and list(roped[: len(layers)]) != expected:
        raise CheckpointError(
            "config.json: no_rope_layers are not those of llama.cpp's Llama 4: each fourth is not roped"
        )
    if config["no_rope_layer_interval"] != _ROPED_IN_FOUR and not roped:
        raise CheckpointError("config.json: no_rope_layer_interval is not 4, as in llama.cpp's Llama 4")
    if config["use_qk_norm"] != (config["experts"] != _UNNORMED_EXPERTS):
        yield f"llama.cpp norms queries and keys unless there are {_UNNORMED_EXPERTS} experts: use_qk_norm differs"
    if (chunk := config["attention_chunk_size"]) != _CHUNK:
        yield f"llama.cpp attends in chunks of {_CHUNK}, this model of {chunk}: beyond the smaller its answers differ"
    if not config["attn_temperature_tuning"] or config["floor_scale"] != _CHUNK or config["attn_scale"] != 0.1:
        first = min(_CHUNK, config["floor_scale"]) if config["attn_temperature_tuning"] else _CHUNK
        yield f"llama.cpp scales attention otherwise than this model (attn_temperature_tuning) beyond {first} tokens"


LLAMA4 = ArchSpec(
    name="llama4",
    hf_architectures=("Llama4ForCausalLM", "Llama4ForConditionalGeneration"),
    metadata=(DECODER, EXPERTS, NUMBERS),
    tensors=(EMBEDDINGS, PRE_NORMS, ATTENTION, FEED_FORWARD),
    sizes={"ff": "intermediate_size_mlp", "expert_ff": "intermediate_size", "shared_ff": "intermediate_size"},
    biases="attn_q? attn_k? attn_v?",
    kinds=lambda config, block: "dense" if (block + 1) % config["interleave_moe_layer_step"] else "sparse",
    ropes=("linear", "yarn", "llama3"),
    defaults={
        "llama4": {
            "rope_theta": 500000.0,
            "rms_norm_eps": 1e-5,
            "max_position_embeddings": 131072,
            "head_dim": 128,
            "num_key_value_heads": 8,
            "intermediate_size": 8192,
            "intermediate_size_mlp": 16384,
            "num_experts": 16,
            "num_experts_per_tok": 1,
            "interleave_moe_layer_step": 1,
            "use_qk_norm": True,
            "no_rope_layer_interval": 4,
            "attention_chunk_size": 8192,
            "attn_temperature_tuning": True,
            "floor_scale": 8192,
            "attn_scale": 0.1,
        }
    },
    extra_tensors=llama3_frequency_factors,
    vocabulary=Vocabulary.BYTE_LEVEL,
    remarks=remarks,
)

SPECS = (LLAMA4,)
