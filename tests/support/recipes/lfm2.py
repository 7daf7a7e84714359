"""LFM 2: which blocks attend, how wide the feed-forward is, how long the convolution."""

from recipes._recipe import Recipe, decoder

CONVOLUTIONS = {r"conv\.conv\.weight$": (0.0, 0.4)}


def one(config: dict[str, object], **more: object) -> Recipe:
    return Recipe("Lfm2ForCausalLM", config, weights=CONVOLUTIONS, **more)


RECIPES = {
    "lfm2": one(
        decoder(
            num_hidden_layers=5,
            layer_types=["conv", "full_attention", "conv", "conv", "full_attention"],
            block_auto_adjust_ff_dim=False,
        )
    ),
    "lfm2-adjusted": one(
        decoder(
            num_hidden_layers=4,
            num_key_value_heads=4,
            full_attn_idxs=[0, 2],
            block_multiple_of=32,
            block_ffn_dim_multiplier=1.3,
            conv_L_cache=4,
            tie_word_embeddings=False,
            rope_parameters={"rope_type": "default", "rope_theta": 50000.0},
            norm_eps=1e-6,
        )
    ),
    # as released by transformers 4: blocks listed by number, other names for the same things
    "lfm2-released": one(
        decoder(num_key_value_heads=1, full_attn_idxs=[1], block_multiple_of=16, conv_L_cache=2),
        extra_config={
            "architectures": ["LFM2ForCausalLM"],
            "layer_types": None,
            "intermediate_size": None,
            "block_ff_dim": 96,
            "block_dim": 64,
            "num_heads": 4,
            "tie_embedding": True,
            "tie_word_embeddings": None,
            "rope_parameters": None,
            "rope_theta": 1000000.0,
            "theta": 1000000.0,
            "block_norm_eps": 1e-05,
        },
    ),
}
