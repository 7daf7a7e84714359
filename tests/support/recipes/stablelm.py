"""StableLM."""

from recipes._recipe import Recipe, decoder

UNSAID = {"stablelm.rope.freq_base": "llama.cpp's converter does not write StableLM's rope base"}

RECIPES = {
    "stablelm": Recipe("StableLmForCausalLM", decoder()),
    "stablelm-12b": Recipe(
        "StableLmForCausalLM",
        decoder(use_parallel_residual=True, qk_layernorm=True, layer_norm_eps=1e-3),
        no_golden="llama.cpp's converter fails on norms of q and k: 'Unprocessed norms'",
    ),
    "stablelm-biased": Recipe(
        "StableLmForCausalLM",
        decoder(
            use_qkv_bias=True,
            num_key_value_heads=4,
            rope_parameters={"rope_type": "default", "rope_theta": 20000.0, "partial_rotary_factor": 0.5},
        ),
        explained=UNSAID,
    ),
    "stablelm-tied": Recipe(
        "StableLmForCausalLM",
        decoder(tie_word_embeddings=True),
        explained={"output.weight": "llama.cpp does not load a tied StableLM: the output is written a second time"},
        dtype="F16",
    ),
    # The first release, by code of its own.
    "stablelm-epoch": Recipe(
        "StableLmForCausalLM",
        decoder(rope_parameters={"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5}),
        extra_config={
            "architectures": ["StableLMEpochForCausalLM"],
            "model_type": "stablelm_epoch",
            "rope_parameters": None,
            "rope_theta": 10000,
            "rope_pct": 0.5,
            "layer_norm_eps": None,
            "norm_eps": 1e-5,
            "num_heads": 4,
        },
        raw_config=True,
        no_logits="transformers does not know the first release's model_type",
    ),
}
