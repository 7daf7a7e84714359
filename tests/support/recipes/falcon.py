"""Falcon."""

from recipes._recipe import Recipe, decoder

EXPLAINED = {"falcon.context_length": "llama.cpp's converter writes 2048 whatever the config says"}
WIDTH = {"falcon.feed_forward_length": "llama.cpp's converter takes 4 x hidden for granted"}
BASE = {"falcon.rope.freq_base": "llama.cpp's converter does not write Falcon's rope"}


def settings(**changes):
    return decoder(num_key_value_heads=None, intermediate_size=None, **changes)


RECIPES = {
    "falcon": Recipe("FalconForCausalLM", settings(num_kv_heads=1), explained=EXPLAINED),
    "falcon-7b": Recipe(
        "FalconForCausalLM",
        settings(tie_word_embeddings=False, rope_parameters={"rope_type": "default", "rope_theta": 500042.0}),
        # as released: nothing says that there is one key head
        extra_config={"num_kv_heads": None, "max_position_embeddings": None, "ffn_hidden_size": None},
        raw_config=True,
        explained=BASE,
    ),
    # The first release, before transformers knew the model.
    "falcon-refined-web": Recipe(
        "FalconForCausalLM",
        settings(num_kv_heads=2, new_decoder_architecture=True, max_position_embeddings=2048),
        extra_config={
            "architectures": ["RWForCausalLM"],
            "model_type": "RefinedWeb",
            "n_head": 4,
            "n_head_kv": 2,
            "n_layer": 3,
            **dict.fromkeys(
                (
                    "num_attention_heads",
                    "num_kv_heads",
                    "num_hidden_layers",
                    "new_decoder_architecture",
                    "num_ln_in_parallel_attn",
                    "rope_parameters",
                    "max_position_embeddings",
                    "tie_word_embeddings",
                )
            ),
        },
        raw_config=True,
        no_logits="transformers does not read the first release's config",
    ),
    "falcon-40b": Recipe(
        "FalconForCausalLM", settings(new_decoder_architecture=True, num_kv_heads=2), explained=EXPLAINED
    ),
    "falcon-11b": Recipe(
        "FalconForCausalLM",
        settings(
            new_decoder_architecture=True,
            num_kv_heads=2,
            num_ln_in_parallel_attn=1,
            ffn_hidden_size=160,
            num_attention_heads=8,
        ),
        explained={**EXPLAINED, **WIDTH},
    ),
    "falcon-every-head": Recipe(
        "FalconForCausalLM", settings(multi_query=False, layer_norm_epsilon=1e-3), explained=EXPLAINED, dtype="F32"
    ),
}
