"""EXAONE with experts."""

from recipes._experts import fuse, rename
from recipes._recipe import Recipe, decoder
from recipes.llama import LLAMA3_ROPE, OLD_CONFIG


def moe(**changes):
    sizes = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "num_hidden_layers": 4}
    return decoder(**{**sizes, "head_dim": 16, **changes})


def predicting(shapes):
    """EXAONE's prediction head: a dense block, and what joins it to the model."""
    own = {name.replace("model.layers.0.", "mtp.layers.0."): s for name, s in shapes.items() if ".layers.0." in name}
    joints = {"fc": (64, 128), "pre_fc_norm_embedding": (64,), "pre_fc_norm_hidden": (64,), "norm": (64,)}
    return {**shapes, **own, **{f"mtp.{name}.weight": shape for name, shape in joints.items()}}


SIGMOID = {"scoring_func": "sigmoid"}
NO_SCORING = {"exaone-moe.expert_gating_func": "transformers saves no scoring_func; its class always takes the sigmoid"}
RECIPES = {
    "exaone-moe": Recipe("ExaoneMoeForCausalLM", moe(sliding_window=8), extra_config=SIGMOID),
    "exaone-moe-wide": Recipe(
        "ExaoneMoeForCausalLM",
        moe(
            head_dim=32,
            sliding_window=64,
            first_k_dense_replace=2,
            num_shared_experts=2,
            num_experts=8,
            n_group=2,
            topk_group=1,
            norm_topk_prob=False,
            sliding_window_pattern=2,
            rope_parameters=LLAMA3_ROPE,
        ),
        explained=NO_SCORING,
        dtype="F32",
    ),
    "exaone-moe-tied": Recipe(
        "ExaoneMoeForCausalLM",
        moe(tie_word_embeddings=True, sliding_window=8, sliding_window_pattern=3, num_hidden_layers=3),
        extra_config={**SIGMOID, "layer_types": None, "mlp_layer_types": None},
        explained={"output.weight": "llama.cpp does not load this architecture without"},
    ),
    "exaone-moe-in-memory": Recipe(
        "ExaoneMoeForCausalLM",
        moe(sliding_window=8, num_hidden_layers=2, sliding_window_pattern=2),
        extra_config={"layer_types": None, "sliding_window_pattern": "LG"},
        alter=lambda shapes: rename((".mlp.e_score", ".mlp.gate.e_score"))(fuse()(shapes)),
        no_golden="llama.cpp's converter does not know fused experts here",
        no_logits="transformers does not read these names",
    ),
    "exaone-moe-predicting": Recipe(
        "ExaoneMoeForCausalLM",
        moe(sliding_window=8),
        extra_config={**SIGMOID, "num_nextn_predict_layers": 1, "architectures": ["ExaoneMoEForCausalLM"]},
        alter=predicting,
        warns=("kept 1 block of",),
    ),
    "exaone-moe-old-config": Recipe(
        "ExaoneMoeForCausalLM",
        moe(sliding_window=8, num_hidden_layers=3, sliding_window_pattern=3),
        extra_config={**OLD_CONFIG, **SIGMOID, "layer_types": None, "mlp_layer_types": None, "topk_method": "noaux_tc"},
    ),
}
