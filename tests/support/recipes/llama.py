"""Llama and what is Llama by another name."""

from recipes._recipe import Recipe, decoder

LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
YARN = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 128}
LINEAR = {"rope_type": "linear", "rope_theta": 50000.0, "factor": 2.0}
WINDOW = "does not apply this model's sliding_window of"
OLD_CONFIG = {"rope_parameters": None, "rope_theta": 20000.0, "dtype": None, "torch_dtype": "bfloat16"}
# The config has no head_dim; what we write is what llama.cpp then assumes.
HEAD_SIZES = dict.fromkeys(("llama.attention.key_length", "llama.attention.value_length"), "said though it is usual")
BEFORE_GQA = {**OLD_CONFIG, "rope_theta": None, "num_key_value_heads": None, "head_dim": None, "attention_bias": None}

RECIPES = {
    "llama": Recipe("LlamaForCausalLM", decoder(rope_parameters=LLAMA3_ROPE)),
    "llama-tied": Recipe("LlamaForCausalLM", decoder(tie_word_embeddings=True, head_dim=32), dtype="F16"),
    "llama-biased": Recipe(
        "LlamaForCausalLM", decoder(attention_bias=True, mlp_bias=True, rms_norm_eps=1e-5), dtype="F32"
    ),
    "llama-attention-biased": Recipe("LlamaForCausalLM", decoder(attention_bias=True, num_key_value_heads=1)),
    "llama-mlp-biased": Recipe("LlamaForCausalLM", decoder(mlp_bias=True, num_key_value_heads=4)),
    "llama-linear": Recipe("LlamaForCausalLM", decoder(rope_parameters=LINEAR, num_hidden_layers=2)),
    "llama-yarn": Recipe("LlamaForCausalLM", decoder(rope_parameters=YARN, head_dim=32)),
    # nothing says what was stretched: the context of the model
    "llama-yarn-unsaid": Recipe(
        "LlamaForCausalLM",
        decoder(rope_parameters={**YARN, "original_max_position_embeddings": 64}, max_position_embeddings=64),
        extra_config={
            "rope_parameters": None,
            "rope_theta": 10000.0,
            "rope_scaling": {"type": "yarn", "factor": 4.0, "beta_fast": None},
        },
        raw_config=True,
        no_golden="llama.cpp's converter stops where YaRN's original context is not said",
    ),
    "llama-llama3-unsaid": Recipe(
        "LlamaForCausalLM",
        decoder(rope_parameters=LLAMA3_ROPE, max_position_embeddings=64),
        extra_config={
            "rope_parameters": None,
            "rope_theta": 500000.0,
            "rope_scaling": {
                "rope_type": "llama3",
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
            },
        },
        raw_config=True,
        explained={"rope_freqs.weight": "llama.cpp's converter takes a context of 8192 for the original one"},
    ),
    "llama-llama3-wide": Recipe(
        "LlamaForCausalLM",
        decoder(rope_parameters={**LLAMA3_ROPE, "factor": 32.0}, hidden_size=96, num_attention_heads=6, head_dim=32),
    ),
    "llama-old-config": Recipe("LlamaForCausalLM", decoder(), extra_config=OLD_CONFIG, raw_config=True),
    "llama-dynamic": Recipe(
        "LlamaForCausalLM",
        decoder(rope_parameters={"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 4.0}),
        warns=("dynamic rope scaling",),
    ),
    "llama-first": Recipe(
        "LlamaForCausalLM",
        decoder(num_key_value_heads=4),
        extra_config={**BEFORE_GQA, "architectures": ["LLaMAForCausalLM"]},
    ),
    "llama-old-rope-scaling": Recipe(
        "LlamaForCausalLM",
        decoder(rope_parameters={**LINEAR, "rope_theta": 20000.0}),
        extra_config={**OLD_CONFIG, "rope_scaling": {"type": "linear", "factor": 2.0}},
    ),
    "llama-model": Recipe("LlamaModel", decoder(num_attention_heads=8)),
    "iquest-coder": Recipe(
        "LlamaForCausalLM",
        decoder(),
        extra_config={"architectures": ["IQuestCoderForCausalLM"], "model_type": "iquest"},
    ),
    "vllama3": Recipe("LlamaForCausalLM", decoder(), extra_config={"architectures": ["VLlama3ForCausalLM"]}),
    "mistral": Recipe("MistralForCausalLM", decoder(head_dim=32, sliding_window=None)),
    "mistral-window": Recipe("MistralForCausalLM", decoder(sliding_window=64), warns=(WINDOW,)),
    "mistral-model": Recipe(
        "MistralModel", decoder(sliding_window=None), no_golden="llama.cpp's converter knows it only with a head"
    ),
    "mixtral": Recipe(
        "MixtralForCausalLM",
        decoder(num_local_experts=4, num_experts_per_tok=2, sliding_window=None),
        explained=HEAD_SIZES,
    ),
    "mixtral-eight": Recipe(
        "MixtralForCausalLM",
        decoder(
            num_local_experts=8, num_experts_per_tok=3, head_dim=32, tie_word_embeddings=True, intermediate_size=64
        ),
        dtype="F32",
    ),
}
