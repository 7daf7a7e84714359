"""Granite with experts, shared ones or none, with windows or none."""

from recipes._experts import rename
from recipes._recipe import Recipe, decoder
from recipes.llama import OLD_CONFIG

MULTIPLIERS = {
    "embedding_multiplier": 12.0,
    "logits_scaling": 8.0,
    "residual_multiplier": 0.22,
    "attention_multiplier": 0.0156,
}
IN_MEMORY = rename(
    ("input_linear.weight", "experts.gate_up_proj"),
    ("output_linear.weight", "experts.down_proj"),
    ("router.layer", "router"),
)


def moe(**changes):
    return decoder(**{"num_local_experts": 4, "num_experts_per_tok": 2, "intermediate_size": 32, **changes})


def keep_shared(shapes):
    """Only the routed experts have another name in memory."""
    routed = {name: shape for name, shape in shapes.items() if "shared_mlp" not in name}
    return {**IN_MEMORY(routed), **{name: shape for name, shape in shapes.items() if "shared_mlp" in name}}


NO_FUSED = "llama.cpp's converter does not know these names"
RECIPES = {
    "granitemoe": Recipe("GraniteMoeForCausalLM", moe(**MULTIPLIERS)),
    "granitemoe-biased": Recipe(
        "GraniteMoeForCausalLM",
        moe(attention_bias=True, tie_word_embeddings=True, attention_multiplier=0.25, num_experts_per_tok=3),
        dtype="F32",
    ),
    "granitemoe-in-memory": Recipe(
        "GraniteMoeForCausalLM",
        moe(**MULTIPLIERS, num_local_experts=8, num_key_value_heads=4),
        alter=keep_shared,
        no_golden=NO_FUSED,
    ),
    "granitemoeshared": Recipe("GraniteMoeSharedForCausalLM", moe(**MULTIPLIERS, shared_intermediate_size=48)),
    "granitemoeshared-none": Recipe(
        "GraniteMoeSharedForCausalLM",
        moe(
            shared_intermediate_size=0,
            num_key_value_heads=1,
            rope_parameters={"rope_theta": 1e6, "rope_type": "default"},
        ),
    ),
    "granitemoeswa": Recipe("GraniteMoeSWAForCausalLM", moe(**MULTIPLIERS, num_hidden_layers=4, sliding_window=8)),
    "granitemoeswa-released": Recipe(
        "GraniteMoeSWAForCausalLM",
        moe(**MULTIPLIERS, num_hidden_layers=2, sliding_window=8),
        alter=rename(
            ("experts.gate_up_proj", "input_linear.weight"),
            ("experts.down_proj", "output_linear.weight"),
            ("router.weight", "router.layer.weight"),
        ),
        no_logits="transformers does not read these names",
    ),
    "granitemoeswa-shared": Recipe(
        "GraniteMoeSWAForCausalLM",
        moe(
            **MULTIPLIERS,
            num_hidden_layers=3,
            sliding_window=64,
            shared_intermediate_size=48,
            attention_bias=True,
            layer_types=["sliding_attention", "full_attention", "sliding_attention"],
        ),
        dtype="F32",
    ),
    "granitemoeswa-unroped": Recipe(
        "GraniteMoeSWAForCausalLM",
        moe(**MULTIPLIERS, sliding_window=8, layer_rope_theta=[10000.0, 10000.0, 0], tie_word_embeddings=True),
        alter=keep_shared,
        explained={"granite_swa.attention.rope_pattern": "llama.cpp's converter overlooks layer_rope_theta"},
    ),
    "granitemoe-old-config": Recipe(
        "GraniteMoeForCausalLM", moe(**MULTIPLIERS, num_hidden_layers=2), extra_config={**OLD_CONFIG}
    ),
}
