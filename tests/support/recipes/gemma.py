"""Gemma 1 to 4, and EmbeddingGemma."""

from recipes._recipe import Recipe, decoder
from recipes.bert import ENCODER

VISION = {"model_type": "siglip_vision_model", "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1}
VISION |= {"num_attention_heads": 2, "image_size": 28, "patch_size": 14}
LEFT_OUT = ("of vision_tower", "of multi_modal_projector")
LINEAR = {
    "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
    "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
}
PATTERN = {"gemma3.attention.sliding_window_pattern": "llama.cpp's converter drops a pattern that is not the usual one"}
PATTERN2 = {
    "gemma2.attention.sliding_window_pattern": "llama.cpp's converter drops a pattern that is not the usual one"
}


RELEASED = {"rope_theta": 1e6, "rope_local_base_freq": 10000.0, "sliding_window_pattern": 6}
RELEASED |= dict.fromkeys(("rope_parameters", "layer_types", "_sliding_window_pattern"))  # transformers 5 writes these


def gemma(**changes):
    return decoder(**{"head_dim": 32, "query_pre_attn_scalar": changes.get("head_dim", 32), **changes})


def layers(kinds: str) -> dict:
    """s for a sliding layer, f for a full one."""
    return {
        "num_hidden_layers": len(kinds),
        "layer_types": [{"s": "sliding_attention", "f": "full_attention"}[kind] for kind in kinds],
    }


UNCAPPED = {"gemma4.final_logit_softcapping": "unsaid, llama.cpp caps at 30, which this model does not"}
SCALES = {r"layer_scalar|router\.scale|per_expert_scale": (1.0, 0.2)}


def gemma4(kinds: str = "sssf", **changes):
    sizes = {"head_dim": 16, "global_head_dim": 32, "hidden_size_per_layer_input": 0, "sliding_window": 8}
    return decoder(**{**sizes, "vocab_size_per_layer_input": 384, **layers(kinds), **changes})


RECIPES = {
    "gemma": Recipe("GemmaForCausalLM", decoder(head_dim=32)),
    "gemma-one-key-head": Recipe(
        "GemmaForCausalLM",
        decoder(head_dim=16, num_key_value_heads=1, rope_parameters={"rope_theta": 5e4, "rope_type": "default"}),
        dtype="F32",
        explained={"gemma.rope.freq_base": "llama.cpp's converter drops a base that is not 10000"},
    ),
    "gemma2": Recipe("Gemma2ForCausalLM", gemma(sliding_window=8)),
    "gemma2-caps": Recipe(
        "Gemma2ForCausalLM",
        gemma(head_dim=16, attn_logit_softcapping=20.0, final_logit_softcapping=10.0, sliding_window=64),
    ),
    "gemma2-pattern": Recipe(
        "Gemma2ForCausalLM", gemma(**layers("fssf"), sliding_window=8, num_key_value_heads=1), explained=PATTERN2
    ),
    "gemma2-uncapped": Recipe(
        "Gemma2ForCausalLM",
        {**gemma(sliding_window=12), "attn_logit_softcapping": None, "final_logit_softcapping": None},
        # what is not capped must differ from what is
        weights={r"[qk]_proj": (0.0, 0.3), "embed_tokens": (0.0, 0.4)},
        no_golden="llama.cpp's converter fails where nothing is capped",
    ),
    "gemma3": Recipe("Gemma3ForCausalLM", gemma(num_hidden_layers=7, sliding_window=8)),
    "gemma3-linear": Recipe(
        "Gemma3ForCausalLM", gemma(**layers("sssssf"), rope_parameters=LINEAR, sliding_window=16, num_key_value_heads=1)
    ),
    "gemma3-capped": Recipe(
        "Gemma3ForCausalLM", gemma(**layers("sssssfs"), final_logit_softcapping=15.0, sliding_window=64, head_dim=16)
    ),
    "gemma3-released": Recipe(
        "Gemma3ForCausalLM",
        gemma(**layers("sssssfs"), rope_parameters=LINEAR, sliding_window=8),
        extra_config={**RELEASED, "rope_scaling": {"factor": 8.0, "rope_type": "linear"}},
    ),
    "gemma3-untied": Recipe(
        "Gemma3ForCausalLM", gemma(num_hidden_layers=6, tie_word_embeddings=False, sliding_window=8)
    ),
    "gemma4-untied": Recipe(
        "Gemma4ForCausalLM", explained=UNCAPPED, weights=SCALES, config=gemma4("sf", tie_word_embeddings=False)
    ),
    "gemma3-pattern": Recipe("Gemma3ForCausalLM", gemma(**layers("sfsf"), sliding_window=8), explained=PATTERN),
    "gemma3-vision": Recipe(
        "Gemma3ForConditionalGeneration",
        {
            "text_config": gemma(num_hidden_layers=6, sliding_window=8),
            "vision_config": VISION,
            "mm_tokens_per_image": 1,
            "image_token_index": 5,
            "boi_token_index": 6,
            "eoi_token_index": 7,
        },
        warns=LEFT_OUT,
    ),
    "embeddinggemma": Recipe(
        "Gemma3TextModel",
        gemma(num_hidden_layers=6, sliding_window=16, use_bidirectional_attention=True),
        no_logits=ENCODER,
    ),
    "gemma4": Recipe("Gemma4ForCausalLM", explained=UNCAPPED, weights=SCALES, config=gemma4()),
    "gemma4-per-layer": Recipe(
        "Gemma4ForCausalLM", weights=SCALES, config=gemma4(hidden_size_per_layer_input=8, final_logit_softcapping=20.0)
    ),
    "gemma4-uncapped": Recipe(
        "Gemma4ForCausalLM", explained=UNCAPPED, weights={**SCALES, "embed_tokens": (0.0, 0.5)}, config=gemma4("sf")
    ),
    "gemma4-shared": Recipe(
        "Gemma4ForCausalLM",
        explained=UNCAPPED,
        weights=SCALES,
        config=gemma4("ssfssf", hidden_size_per_layer_input=8, num_kv_shared_layers=3, use_double_wide_mlp=True),
    ),
    "gemma4-keys-are-values": Recipe(
        "Gemma4ForCausalLM",
        explained=UNCAPPED,
        weights=SCALES,
        config=gemma4("sssf", attention_k_eq_v=True, num_global_key_value_heads=1),
    ),
    "gemma4-experts": Recipe(
        "Gemma4ForCausalLM",
        explained=UNCAPPED,
        weights=SCALES,
        config=gemma4(enable_moe_block=True, num_experts=4, top_k_experts=2, moe_intermediate_size=32),
    ),
    "gemma4-vision": Recipe(
        "Gemma4ForConditionalGeneration",
        explained=UNCAPPED,
        weights=SCALES,
        config={
            "text_config": gemma4(),
            "vision_config": {
                "hidden_size": 32,
                "intermediate_size": 48,
                "num_hidden_layers": 1,
                "num_attention_heads": 2,
                "num_key_value_heads": 2,
                "head_dim": 16,
            },
            "audio_config": None,
            "image_token_id": 300,
        },
        warns=("of vision_tower", "of embed_vision"),
    ),
}
