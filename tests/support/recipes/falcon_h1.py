"""Falcon H1: every multiplier, states with and without a norm, groups, biases of the feed-forward, ties."""

from recipes._recipe import Recipe, decoder
from recipes.mamba import STATES, ZEROS

MULTIPLIERS = {
    "lm_head_multiplier": 0.5,
    "embedding_multiplier": 3.0,
    "mlp_multipliers": [0.7, 1.3],
    "key_multiplier": 0.6,
    "attention_out_multiplier": 0.9,
    "attention_in_multiplier": 1.2,
    "ssm_multipliers": [0.4, 0.6, 1.2, 0.7, 0.3],
    "ssm_in_multiplier": 1.25,
    "ssm_out_multiplier": 0.8,
}


def config(**changes: object) -> dict[str, object]:
    return decoder(
        **{
            "head_dim": 32,
            "mamba_d_ssm": 96,
            "mamba_n_heads": 6,
            "mamba_d_head": 16,
            "mamba_d_state": 16,
            "mamba_norm_before_gate": False,
            "mamba_rms_norm": True,
            **changes,
        }
    )


def one(settings: dict[str, object], **more: object) -> Recipe:
    return Recipe("FalconH1ForCausalLM", settings, weights=STATES, **more)


RECIPES = {
    "falcon-h1": one(config(**MULTIPLIERS, mamba_n_groups=2)),
    "falcon-h1-no-norm": one(
        config(
            head_dim=16,
            num_key_value_heads=1,
            mamba_rms_norm=False,
            mamba_norm_before_gate=True,
            rope_parameters={"rope_type": "default", "rope_theta": 1e11},
        )
    ),
    "falcon-h1-biases": one(
        config(**MULTIPLIERS, mlp_bias=True, mamba_conv_bias=False, num_hidden_layers=2), explained=ZEROS
    ),
    "falcon-h1-tied": one(
        config(**MULTIPLIERS, mamba_d_state=32, mamba_n_heads=12, mamba_d_head=8, tie_word_embeddings=True),
        explained={"output_norm.weight": "takes the output's multiplier, and undoes the embedding's"},
    ),
    # the inner width is not said: a factor of the outer one
    "falcon-h1-expand": one(
        {**config(mamba_n_heads=8, mamba_n_groups=4, mamba_d_conv=3), "mamba_d_ssm": None, "mamba_expand": 2},
        no_golden="it wants the number itself",
    ),
}
