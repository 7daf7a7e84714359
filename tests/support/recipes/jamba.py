"""Jamba: where it attends and where it routes, with and without experts, ranks and biases of its states."""

from recipes._recipe import Recipe, decoder
from recipes.mamba import EXPONENTIALS, STATES, ZEROS

FUSED = "feed_forward.experts.gate_up_proj"


def one(config: dict[str, object], **more: object) -> Recipe:
    return Recipe("JambaForCausalLM", config, weights=STATES, **{"explained": EXPONENTIALS, **more})


def experts(**changes: object) -> dict[str, object]:
    return decoder(**{"num_experts": 4, "num_experts_per_tok": 2, "num_hidden_layers": 6, **changes})


def fuse_experts(shapes: dict[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """Store experts as the model holds them in memory: gate and up in one tensor of all experts, and down."""
    fused = {}
    for name, shape in shapes.items():
        before, found, expert = name.partition(".experts.")
        if not found:
            fused[name] = shape
        elif expert.endswith("down_proj.weight"):
            fused[f"{before}.experts.down_proj"] = (4, *shape)
        else:
            fused[f"{before}.experts.gate_up_proj"] = (4, 2 * shape[0], shape[1])
    return fused


RECIPES = {
    "jamba": one(
        experts(
            attn_layer_period=4,
            attn_layer_offset=1,
            expert_layer_period=2,
            expert_layer_offset=1,
            mamba_d_state=16,
            mamba_dt_rank="auto",
        )
    ),
    "jamba-dense": one(
        experts(
            num_experts=1,
            num_experts_per_tok=1,
            num_key_value_heads=4,
            num_hidden_layers=4,
            attn_layer_period=2,
            attn_layer_offset=0,
            mamba_d_state=8,
            mamba_d_conv=3,
            mamba_dt_rank=7,
            tie_word_embeddings=True,
            rms_norm_eps=1e-5,
        )
    ),
    "jamba-offsets": one(
        experts(
            num_experts=3,
            num_experts_per_tok=1,
            num_key_value_heads=1,
            num_hidden_layers=5,
            attn_layer_period=3,
            attn_layer_offset=2,
            expert_layer_period=3,
            expert_layer_offset=0,
            mamba_conv_bias=False,
        ),
        explained={**EXPONENTIALS, **ZEROS},
    ),
    "jamba-fused": one(
        experts(attn_layer_period=3, attn_layer_offset=0, num_hidden_layers=4),
        alter=fuse_experts,
        no_golden="it knows the experts one by one only",
        no_logits="transformers wants the experts one by one too",
    ),
}
