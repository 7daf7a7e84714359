"""Qwen 3 Next and 3.5: gated delta nets, dense and with experts, with and without multi-token prediction."""

from recipes._experts import fuse
from recipes._recipe import Recipe, decoder
from recipes.llama import OLD_CONFIG

ROUNDED = "exp is rounded otherwise by MKL, which torch uses, in one of a hundred cases"
EXACT = {f"blk.{block}.ssm_a": ROUNDED for block in range(4)}
SECTIONS = "llama.cpp aborts on more pairs than the head has"


def delta(**changes):
    sizes = {"linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 16}
    sizes |= {"linear_value_head_dim": 16, "num_hidden_layers": 4, "head_dim": 32}
    return decoder(**{**sizes, **changes})


def moe(**changes):
    experts = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
    return delta(**{**experts, "shared_expert_intermediate_size": 48, **changes})


def vision(text):
    sizes = {"depth": 1, "hidden_size": 32, "intermediate_size": 32, "num_heads": 2, "out_hidden_size": 64}
    return {"text_config": text, "vision_config": {**sizes, "num_position_embeddings": 16, "patch_size": 4}}


def rope(factor, sections=None, **more):
    settings = {"rope_type": "default", "rope_theta": 1e6, "partial_rotary_factor": factor, **more}
    return {**settings, "mrope_section": sections} if sections else settings


def predicting(shapes):
    """Qwen's prediction head: one block of full attention, and what joins it to the model."""
    own = {f"mtp.{name[6:]}": shape for name, shape in shapes.items() if name.startswith("model.layers.3.")}
    own = {name.replace("layers.3.", "layers.0."): shape for name, shape in own.items()}
    joints = {"fc": (64, 128), "pre_fc_norm_embedding": (64,), "pre_fc_norm_hidden": (64,), "norm": (64,)}
    return {**shapes, **own, **{f"mtp.{name}.weight": shape for name, shape in joints.items()}}


WIDE = {"linear_num_value_heads": 2, "linear_key_head_dim": 32, "linear_value_head_dim": 32}
TYPES = ["linear_attention", "full_attention", "full_attention"]
RECIPES = {
    "qwen3next": Recipe("Qwen3NextForCausalLM", moe(), no_mtp=True, explained=EXACT),
    "qwen3next-epsilon": Recipe(
        "Qwen3NextForCausalLM",
        moe(rms_norm_eps=1e-5),
        no_mtp=True,
        explained=EXACT,
        warns=("norms queries and keys of linear attention with the model's epsilon of 1e-05",),
    ),
    "qwen3next-wide": Recipe(
        "Qwen3NextForCausalLM",
        moe(**WIDE, num_hidden_layers=3, layer_types=TYPES, tie_word_embeddings=True, num_experts=8),
        no_mtp=True,
        explained=EXACT,
        dtype="F32",
    ),
    "qwen3next-halves": Recipe(
        "Qwen3NextForCausalLM",
        moe(linear_num_value_heads=8, rope_parameters=rope(0.5), linear_conv_kernel_dim=3, num_key_value_heads=1),
        no_mtp=True,
        explained=EXACT,
        alter=fuse(),
    ),
    "qwen3next-predicting": Recipe(
        "Qwen3NextForCausalLM", moe(), alter=predicting, explained=EXACT, warns=("kept 1 block of",)
    ),
    "qwen3next-unnormed": Recipe(
        "Qwen3NextForCausalLM",
        moe(norm_topk_prob=False),
        no_mtp=True,
        explained=EXACT,
        warns=("the weights of the chosen experts",),
        no_logits="llama.cpp normalizes the weights of the experts",
    ),
    "qwen35": Recipe("Qwen3_5ForCausalLM", delta(), no_mtp=True, explained=EXACT),
    "qwen35-wide": Recipe(
        "Qwen3_5ForCausalLM",
        delta(**WIDE, tie_word_embeddings=True, rope_parameters=rope(0.5, [3, 3, 2])),
        no_mtp=True,
        explained=EXACT,
        dtype="F32",
    ),
    "qwen35-six": Recipe(
        "Qwen3_5ForCausalLM",
        delta(linear_num_value_heads=6, linear_conv_kernel_dim=3, head_dim=16, rope_parameters=rope(0.5)),
        no_mtp=True,
        explained={**EXACT, "qwen35.rope.dimension_sections": SECTIONS},
    ),
    "qwen35-predicting": Recipe(
        "Qwen3_5ForCausalLM",
        delta(layer_types=["linear_attention", "full_attention", "linear_attention", "full_attention"]),
        extra_config={"mtp_num_hidden_layers": 1},
        alter=predicting,
        explained=EXACT,
        warns=("kept 1 block of",),
    ),
    "qwen35moe": Recipe(
        "Qwen3_5MoeForCausalLM", moe(rope_parameters=rope(0.25, [2, 1, 1])), no_mtp=True, explained=EXACT
    ),
    "qwen35moe-tied": Recipe(
        "Qwen3_5MoeForCausalLM",
        moe(**WIDE, num_hidden_layers=3, layer_types=TYPES, tie_word_embeddings=True),
        no_mtp=True,
        explained=EXACT,
        alter=fuse(),
    ),
    "qwen35moe-predicting": Recipe(
        "Qwen3_5MoeForCausalLM",
        moe(linear_num_value_heads=8),
        alter=predicting,
        explained=EXACT,
        warns=("kept 1 block of",),
    ),
    "qwen35-vision": Recipe(
        "Qwen3_5ForConditionalGeneration",
        vision(delta(rope_parameters=rope(0.5, [3, 3, 2]), tie_word_embeddings=False)),
        no_mtp=True,
        explained=EXACT,
        warns=("of visual",),
        weights={"visual": (0.0, 0.05)},
    ),
    "qwen35moe-vision": Recipe(
        "Qwen3_5MoeForConditionalGeneration",
        vision(moe(rope_parameters=rope(0.5, [3, 3, 2]), tie_word_embeddings=False)),
        no_mtp=True,
        explained=EXACT,
        warns=("of visual",),
        weights={"visual": (0.0, 0.05)},
    ),
    "qwen3next-old-config": Recipe(
        "Qwen3NextForCausalLM",
        moe(num_hidden_layers=3, layer_types=["linear_attention", "linear_attention", "full_attention"]),
        extra_config={**OLD_CONFIG, "layer_types": None, "full_attention_interval": 3, "partial_rotary_factor": 0.5},
        raw_config=True,
        no_mtp=True,
        explained=EXACT,
    ),
}
