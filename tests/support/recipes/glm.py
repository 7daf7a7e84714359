"""GLM-4, by transformers' names and by its own."""

from recipes._recipe import VOCABULARY, Recipe, decoder
from recipes.llama import YARN

EXPLAINED = {
    "chatglm.attention.layer_norm_rms_epsilon": "llama.cpp's converter looks for layernorm_epsilon and takes 1e-5",
    "chatglm.context_length": "llama.cpp's converter looks for seq_length and takes the hidden size",
}
BASE = {"chatglm.rope.freq_base": "llama.cpp's converter looks for rope_ratio and takes 10000"}
QUARTER = {"rope_type": "default", "rope_theta": 50000.0, "partial_rotary_factor": 0.25}

OLD = {
    "architectures": ["ChatGLMModel"],
    "model_type": "chatglm",
    "num_layers": 2,
    "padded_vocab_size": VOCABULARY,
    "hidden_size": 64,
    "ffn_hidden_size": 96,
    "kv_channels": 16,
    "num_attention_heads": 4,
    "multi_query_attention": True,
    "multi_query_group_num": 2,
    "seq_length": 512,
    "layernorm_epsilon": 1.5625e-07,
    "rmsnorm": True,
    "post_layer_norm": True,
    "add_bias_linear": False,
    "add_qkv_bias": True,
    "apply_query_key_layer_scaling": True,
    "apply_residual_connection_post_layernorm": False,
    "attention_softmax_in_fp32": True,
    "original_rope": True,
    "rope_ratio": 500,
    "tie_word_embeddings": False,
    "vocab_size": VOCABULARY,
}


def old_shapes(heads: int = 4, groups: int = 2, *, biased: bool = True) -> dict[str, tuple[int, ...]]:
    rows = (heads + 2 * groups) * 16
    block = {
        "input_layernorm.weight": (64,),
        "self_attention.query_key_value.weight": (rows, 64),
        **({"self_attention.query_key_value.bias": (rows,)} if biased else {}),
        "self_attention.dense.weight": (64, 64),
        "post_attention_layernorm.weight": (64,),
        "mlp.dense_h_to_4h.weight": (192, 64),
        "mlp.dense_4h_to_h.weight": (64, 96),
    }
    return {
        "transformer.embedding.word_embeddings.weight": (VOCABULARY, 64),
        "transformer.rotary_pos_emb.inv_freq": (4,),
        **{f"transformer.encoder.layers.{b}.{name}": shape for b in range(2) for name, shape in block.items()},
        "transformer.encoder.final_layernorm.weight": (64,),
        "transformer.output_layer.weight": (VOCABULARY, 64),
    }


NO_LOGITS = "transformers builds it under other names only"

RECIPES = {
    "glm": Recipe("GlmForCausalLM", decoder(head_dim=16), explained=EXPLAINED),
    "glm-unbiased": Recipe(
        "GlmForCausalLM",
        decoder(head_dim=16, attention_bias=False, tie_word_embeddings=True, rope_parameters=QUARTER),
        explained={**EXPLAINED, **BASE},
    ),
    "glm4": Recipe("Glm4ForCausalLM", decoder(head_dim=32, attention_bias=False)),
    "glm4-biased": Recipe(
        "Glm4ForCausalLM",
        decoder(head_dim=16, attention_bias=True, tie_word_embeddings=True, rope_parameters=QUARTER),
    ),
    "glm4-yarn": Recipe(
        "Glm4ForCausalLM", decoder(head_dim=32, rope_parameters={**YARN, "partial_rotary_factor": 0.5})
    ),
    "glm4-released": Recipe(
        "Glm4ForCausalLM",
        decoder(head_dim=32, rope_parameters={"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5}),
        extra_config={"rope_parameters": None, "rope_theta": 10000.0, "partial_rotary_factor": 0.5},
        raw_config=True,
    ),
    "chatglm": Recipe("ChatGLMModel", OLD, shapes=old_shapes(), raw_config=True, no_logits=NO_LOGITS),
    "chatglm-every-head": Recipe(
        "ChatGLMForConditionalGeneration",
        {
            **OLD,
            "architectures": ["ChatGLMForConditionalGeneration"],
            "multi_query_attention": False,
            "multi_query_group_num": 4,
            "add_qkv_bias": False,
            "rope_ratio": 1,
        },
        shapes=old_shapes(groups=4, biased=False),
        raw_config=True,
        no_logits=NO_LOGITS,
    ),
}
