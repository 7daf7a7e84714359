"""Granite with experts: Granite's multipliers, and experts fused as JetMoe had them, with or without a shared one."""

from collections.abc import Iterable

from ggufkit.architectures._blocks import (
    ATTENTION,
    DECODER,
    EMBEDDINGS,
    EXPERTS,
    LAYERS,
    OPTIONAL_ATTENTION_BIASES,
    PRE_NORMS,
    require_activation,
    require_experts,
)
from ggufkit.architectures._decoders import PERMUTED_QK, require_sliding
from ggufkit.architectures._expert_ops import SplitGateUp, StackedDown
from ggufkit.architectures._ops import Split
from ggufkit.architectures._rope import rope
from ggufkit.architectures._sizes import Config
from ggufkit.architectures._spec import ArchSpec, MetadataTable, TensorTable, Vocabulary, blocks, maybe, to
from ggufkit.errors import CheckpointError

# Both names of every tensor: the released ones, and those that transformers 5 has in memory.
MOE: TensorTable = blocks(
    LAYERS,
    {
        "block_sparse_moe.router.layer": "ffn_gate_inp",
        "block_sparse_moe.router": "ffn_gate_inp",
        "block_sparse_moe.input_linear": to("ffn_gate_exps", "ffn_up_exps", op=SplitGateUp()),
        "block_sparse_moe.output_linear": to("ffn_down_exps", op=StackedDown()),
        "block_sparse_moe.experts.gate_up_proj": to("ffn_gate_exps.weight", "ffn_up_exps.weight", op=SplitGateUp()),
        "block_sparse_moe.experts.down_proj": to("ffn_down_exps.weight", op=StackedDown()),
    },
)
SHARED: TensorTable = blocks(
    LAYERS,
    {
        "shared_mlp.input_linear": to("ffn_gate_shexp?", "ffn_up_shexp?", op=Split("shared_ff", "shared_ff")),
        "shared_mlp.output_linear": "ffn_down_shexp?",
    },
)
# llama.cpp's sliding-window Granite takes gate and up together.
SWA_MOE: TensorTable = blocks(
    LAYERS,
    {
        "block_sparse_moe.router.layer": "ffn_gate_inp",
        "block_sparse_moe.router": "ffn_gate_inp",
        "block_sparse_moe.input_linear": "ffn_gate_up_exps",
        "block_sparse_moe.output_linear": "ffn_down_exps",
        "block_sparse_moe.experts.gate_up_proj": "ffn_gate_up_exps.weight",
        "block_sparse_moe.experts.down_proj": "ffn_down_exps.weight",
        "shared_mlp.input_linear": "ffn_up_shexp?",
        "shared_mlp.output_linear": "ffn_down_shexp?",
        "self_attn.sinks": "attn_sinks.weight",
    },
)
MULTIPLIERS: MetadataTable = {
    "vocab_size": "vocab_size",
    "rope.dimension_count": "head",
    "attention.scale": maybe("attention_multiplier"),
    "embedding_scale": maybe("embedding_multiplier"),
    "residual_scale": maybe("residual_multiplier"),
    "logit_scale": "logits_scaling",
    "expert_shared_feed_forward_length": lambda c: c.get("shared_intermediate_size") or None,
}
WINDOW: MetadataTable = {
    "attention.sliding_window": "sliding_window",
    "attention.sliding_window_pattern": lambda c: [kind == "sliding_attention" for kind in _layer_types(c)],
    "attention.rope_pattern": lambda c: _rope_pattern(c),
}
_DEFAULTS = {
    "rope_theta": 10000.0,
    "rms_norm_eps": 1e-6,
    "max_position_embeddings": 2048,
    "num_experts": 8,
    "num_experts_per_tok": 2,
    **dict.fromkeys(("embedding_multiplier", "logits_scaling", "residual_multiplier", "attention_multiplier"), 1.0),
}


def _layer_types(config: Config) -> list[str]:
    layers = range(config["num_hidden_layers"])
    return config.get("layer_types") or ["full_attention" if i % 4 == 0 else "sliding_attention" for i in layers]


def _rope_pattern(config: Config) -> list[bool] | None:
    """Tell which layers are roped: by a list of ones and zeros, or of bases, of which 0 means none."""
    pattern = config.get("no_rope_layers") or config.get("layer_rope_theta")
    return [bool(value) for value in pattern] if pattern and not all(pattern) else None


def swa_remarks(config: Config) -> Iterable[str]:
    """Refuse the same, and a model in which no layer slides."""
    require_sliding(config, [kind == "sliding_attention" for kind in _layer_types(config)])
    return remarks(config)


def remarks(config: Config) -> Iterable[str]:
    """Refuse another activation, and bases of rope that differ from layer to layer."""
    require_activation(config, "silu")
    require_experts(config)
    thetas = {theta for theta in config.get("layer_rope_theta") or () if theta}
    if len(thetas) > 1 or (thetas and thetas != {rope(config)["rope_theta"]}):
        raise CheckpointError(f"config.json: layer_rope_theta has bases {sorted(thetas)}; llama.cpp knows one")
    return ()


GRANITE_MOE = ArchSpec(
    name="granitemoe",
    hf_architectures=("GraniteMoeForCausalLM", "GraniteMoeSharedForCausalLM"),
    metadata=(DECODER, EXPERTS, MULTIPLIERS),
    tensors=(EMBEDDINGS, PRE_NORMS, ATTENTION, PERMUTED_QK, MOE, SHARED),
    sizes={"shared_ff": "shared_intermediate_size"},
    biases=OPTIONAL_ATTENTION_BIASES,
    defaults={"granitemoe": _DEFAULTS, "granitemoeshared": _DEFAULTS},
    vocabulary=Vocabulary.LLAMA,
    remarks=remarks,
)
GRANITE_MOE_SWA = ArchSpec(
    name="granite_swa",
    hf_architectures=("GraniteMoeSWAForCausalLM",),
    metadata=(DECODER, EXPERTS, MULTIPLIERS, WINDOW),
    tensors=(EMBEDDINGS, PRE_NORMS, ATTENTION, PERMUTED_QK, SWA_MOE),
    sizes={"shared_ff": "shared_intermediate_size"},
    shapes={"ffn_up_shexp": "2*shared_ff hidden"},
    biases=OPTIONAL_ATTENTION_BIASES,
    defaults={"granitemoe_swa": {**_DEFAULTS, "sliding_window": 128}},
    vocabulary=Vocabulary.LLAMA,
    remarks=swa_remarks,
)

SPECS = (GRANITE_MOE, GRANITE_MOE_SWA)
