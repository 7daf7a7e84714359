"""GPT-NeoX."""

from recipes._recipe import Recipe, decoder

UNSAID = "llama.cpp's converter does not write GPT-NeoX's rope"


def settings(**changes):
    return decoder(num_key_value_heads=None, **changes)


RECIPES = {
    "gptneox": Recipe("GPTNeoXForCausalLM", settings(), extra_config={"rotary_pct": 0.25}, raw_config=True),
    "gptneox-in-series": Recipe(
        "GPTNeoXForCausalLM",
        settings(
            use_parallel_residual=False,
            hidden_act="gelu_new",
            layer_norm_eps=1e-3,
            num_attention_heads=2,
            rope_parameters={"rope_type": "default", "rope_theta": 25000.0, "partial_rotary_factor": 0.5},
        ),
        extra_config={"rotary_pct": 0.5},
        raw_config=True,
        explained={"gptneox.rope.freq_base": UNSAID},
        dtype="F32",
    ),
    # Pythia's spelling, and another base.
    "gptneox-pythia": Recipe(
        "GPTNeoXForCausalLM",
        settings(rope_parameters={"rope_type": "default", "rope_theta": 500.0, "partial_rotary_factor": 1.0}),
        extra_config={"rope_parameters": None, "rotary_pct": 1.0, "rotary_emb_base": 500},
        raw_config=True,
        explained={"gptneox.rope.freq_base": UNSAID},
        dtype="F16",
    ),
    "gptneox-linear": Recipe(
        "GPTNeoXForCausalLM",
        settings(tie_word_embeddings=True, rope_parameters={"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}),
        extra_config={"rotary_pct": 0.25},
        raw_config=True,
        explained={
            "gptneox.rope.scaling.type": UNSAID,
            "gptneox.rope.scaling.factor": UNSAID,
            "output.weight": "llama.cpp does not load a tied GPT-NeoX: the output is written a second time",
        },
    ),
}
