"""Qwen 2 and 3 with experts."""

from recipes._experts import fuse
from recipes._recipe import Recipe, decoder
from recipes.llama import LINEAR, OLD_CONFIG, YARN

WRONG_WEIGHTS = "the weights of the chosen experts"
MROPE = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [6, 5, 5], "mrope_interleaved": True}


def moe(**changes):
    return decoder(**{"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32, **changes})


def vision(**text):
    vision = {"depth": 1, "hidden_size": 32, "intermediate_size": 32, "num_heads": 2, "out_hidden_size": 64}
    sizes = {"num_position_embeddings": 16, "deepstack_visual_indexes": [0], "patch_size": 4}
    return {"text_config": moe(**text), "vision_config": {**vision, **sizes}}


def turned(shapes):
    """Experts stored inputs first."""
    return {name: (s[0], s[2], s[1]) if ".experts." in name else s for name, s in shapes.items()}


def apart(shapes):
    """Experts stored one by one."""
    others = {name: shape for name, shape in shapes.items() if ".experts." not in name}
    routers = [name.removesuffix("gate.weight") for name in others if name.endswith("mlp.gate.weight")]
    for path in (f"{router}experts.{expert}" for router in routers for expert in range(4)):
        others |= {f"{path}.gate_proj.weight": (32, 64), f"{path}.up_proj.weight": (32, 64)}
        others[f"{path}.down_proj.weight"] = (64, 32)
    return others


RECIPES = {
    "qwen2moe": Recipe("Qwen2MoeForCausalLM", moe(shared_expert_intermediate_size=48)),
    "qwen2moe-normed": Recipe(
        "Qwen2MoeForCausalLM",
        moe(shared_expert_intermediate_size=32, norm_topk_prob=True, num_experts_per_tok=3),
        warns=(WRONG_WEIGHTS,),
        no_logits="llama.cpp does not normalize the weights of the experts",
    ),
    "qwen2moe-tied": Recipe(
        "Qwen2MoeForCausalLM",
        moe(shared_expert_intermediate_size=32, tie_word_embeddings=True, qkv_bias=False, num_key_value_heads=1),
        explained={"output.weight": "llama.cpp does not load this architecture without"},
        dtype="F32",
    ),
    "qwen2moe-yarn-fused": Recipe(
        "Qwen2MoeForCausalLM",
        moe(shared_expert_intermediate_size=32, rope_parameters=YARN, num_key_value_heads=4),
        alter=fuse(),
    ),
    "qwen2moe-window": Recipe(
        "Qwen2MoeForCausalLM",
        moe(shared_expert_intermediate_size=32, use_sliding_window=True, sliding_window=64, num_hidden_layers=2),
        warns=("sliding_window of 64",),
    ),
    "qwen3moe": Recipe("Qwen3MoeForCausalLM", moe(head_dim=32, norm_topk_prob=True)),
    "qwen3moe-unnormed": Recipe(
        "Qwen3MoeForCausalLM",
        moe(num_experts=8, tie_word_embeddings=True),
        warns=(WRONG_WEIGHTS,),
        no_logits="llama.cpp normalizes the weights of the experts",
    ),
    "qwen3moe-linear": Recipe(
        "Qwen3MoeForCausalLM",
        moe(head_dim=16, norm_topk_prob=True, num_experts_per_tok=1, rope_parameters=LINEAR, num_key_value_heads=1),
        dtype="F32",
    ),
    "qwen3moe-fused": Recipe(
        "Qwen3MoeForCausalLM",
        moe(head_dim=16, norm_topk_prob=True, tie_word_embeddings=True, rms_norm_eps=1e-5),
        alter=fuse(),
    ),
    "qwen3vlmoe": Recipe(
        "Qwen3VLMoeForConditionalGeneration",
        vision(head_dim=32, rope_parameters=MROPE),
        warns=("of visual",),
        no_golden="llama.cpp's converter takes the experts to be turned round, as they were before transformers 5",
        weights={"visual": (0.0, 0.05)},
    ),
    "qwen3vlmoe-released": Recipe(
        "Qwen3VLMoeForConditionalGeneration",
        vision(
            head_dim=16,
            tie_word_embeddings=False,
            num_experts=8,
            moe_intermediate_size=48,
            rope_parameters={**MROPE, "mrope_section": [4, 2, 2]},
        ),
        alter=turned,
        warns=("of visual",),
    ),
    "qwen3vlmoe-released-in-doubt": Recipe(
        "Qwen3VLMoeForConditionalGeneration",
        vision(head_dim=16, rope_parameters={**MROPE, "mrope_section": [4, 2, 2]}),
        alter=turned,
        warns=("of visual",),
        no_logits="transformers takes a square gate_up_proj for one of its own",
    ),
    "qwen3vlmoe-apart": Recipe(
        "Qwen3VLMoeForConditionalGeneration",
        vision(head_dim=16, num_key_value_heads=1, rope_parameters={**MROPE, "mrope_section": [4, 2, 2]}),
        alter=apart,
        warns=("of visual",),
        no_logits="transformers does not read experts one by one here",
    ),
    "qwen2moe-old-config": Recipe(
        "Qwen2MoeForCausalLM",
        moe(shared_expert_intermediate_size=32, num_hidden_layers=2),
        extra_config={
            **OLD_CONFIG,
            "layer_types": None,
            "sliding_window": 32768,
            "max_window_layers": 21,
            "qkv_bias": None,
        },
    ),
    "qwen3moe-old-config": Recipe(
        "Qwen3MoeForCausalLM",
        moe(norm_topk_prob=True, num_hidden_layers=2, head_dim=32),
        extra_config={**OLD_CONFIG, "mlp_only_layers": [], "sliding_window": None},
    ),
}
