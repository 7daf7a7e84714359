"""Mamba, FalconMamba, Mamba 2: sizes of the state, ranks, groups, heads, biases, ties."""

from recipes._recipe import VOCABULARY, Recipe

STATES = {r"A_log$": (0.7, 0.4), r"\.D$": (1.0, 0.2), r"conv1d\.weight$": (0.0, 0.4), r"x_proj": (0.0, 0.2)}
# torch computes the exponential in float32, MKL's way: about one in a hundred is not the nearest float32.
EXPONENTIALS = {f"blk.{block}.ssm_a": "off by one in the last place, theirs" for block in range(8)}
ZEROS = {f"blk.{block}.ssm_conv1d.bias": "zeros where the model has none: llama.cpp wants a bias" for block in range(8)}
EPSILON = ("norms dt, B and C with the other norms' epsilon",)


def mamba(**changes: object) -> dict[str, object]:
    return {
        "hidden_size": 64,
        "num_hidden_layers": 3,
        "vocab_size": VOCABULARY,
        "bos_token_id": 0,
        "eos_token_id": 1,
        "pad_token_id": 2,
        **changes,
    }


def one(config: dict[str, object], model: str = "MambaForCausalLM", **more: object) -> Recipe:
    return Recipe(model, config, weights=STATES, **{"explained": EXPONENTIALS, **more})


RECIPES = {
    "mamba": one(mamba()),
    "mamba-untied": one(mamba(hidden_size=96, state_size=8, tie_word_embeddings=False, layer_norm_epsilon=1e-4)),
    "mamba-rank": one(mamba(state_size=24, time_step_rank=10, conv_kernel=3, num_hidden_layers=2)),
    "mamba-no-conv-bias": one(mamba(use_conv_bias=False), explained={**EXPONENTIALS, **ZEROS}),
    # as released: old names beside the new ones, the rank to be worked out
    "mamba-released": one(
        mamba(hidden_size=80),
        extra_config={
            "d_model": 80,
            "d_inner": 160,
            "n_layer": 3,
            "time_step_rank": "auto",
            "pad_vocab_size_multiple": 8,
            "ssm_cfg": {},
            "rms_norm": True,
            "fused_add_norm": True,
            "expand": None,
        },
        no_golden="it reads 'auto' as a number",
    ),
    "mamba-old-name": one(mamba(num_hidden_layers=2), extra_config={"architectures": ["MambaLMHeadModel"]}),
    "falcon-mamba": one(mamba(time_step_rank=8, tie_word_embeddings=False), "FalconMambaForCausalLM", warns=EPSILON),
    "falcon-mamba-tied": one(
        mamba(hidden_size=32, state_size=8, conv_kernel=3, layer_norm_epsilon=1e-6), "FalconMambaForCausalLM"
    ),
    "mamba2": one(mamba(state_size=16, num_heads=4, head_dim=32, n_groups=2), "Mamba2ForCausalLM", explained={}),
    "mamba2-tied": one(
        mamba(
            hidden_size=96,
            state_size=32,
            num_heads=8,
            head_dim=24,
            n_groups=1,
            conv_kernel=3,
            tie_word_embeddings=True,
            layer_norm_epsilon=1e-4,
        ),
        "Mamba2ForCausalLM",
        explained={},
    ),
    "mamba2-groups": one(
        mamba(state_size=8, num_heads=16, head_dim=8, n_groups=4, num_hidden_layers=2),
        "Mamba2ForCausalLM",
        explained={},
    ),
    "mamba2-no-conv-bias": one(
        mamba(state_size=16, num_heads=8, head_dim=16, n_groups=8, use_conv_bias=False),
        "Mamba2ForCausalLM",
        explained=ZEROS,
    ),
    # more than twice as wide inside as outside
    "mamba2-expand": one(
        mamba(state_size=16, num_heads=6, head_dim=32, n_groups=2, expand=3), "Mamba2ForCausalLM", explained={}
    ),
}
