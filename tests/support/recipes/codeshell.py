"""CodeShell."""

from recipes._recipe import VOCABULARY, Recipe

BLOCK = {
    "ln_1.weight": (64,),
    "ln_1.bias": (64,),
    "attn.c_attn.weight": (128, 64),
    "attn.c_attn.bias": (128,),
    "attn.c_proj.weight": (64, 64),
    "attn.c_proj.bias": (64,),
    "ln_2.weight": (64,),
    "ln_2.bias": (64,),
    "mlp.c_fc.weight": (256, 64),
    "mlp.c_fc.bias": (256,),
    "mlp.c_proj.weight": (64, 256),
    "mlp.c_proj.bias": (64,),
}

RECIPES = {
    "codeshell": Recipe(
        "CodeShellForCausalLM",
        {
            "architectures": ["CodeShellForCausalLM"],
            "model_type": "codeshell",
            "activation_function": "gelu_pytorch_tanh",
            "n_embd": 64,
            "n_layer": 2,
            "n_head": 4,
            "n_inner": 256,
            "n_positions": 512,
            "num_query_groups": 2,
            "group_query_attention": True,
            "layer_norm_epsilon": 1e-5,
            "position_embedding_type": "rope",
            "tie_word_embeddings": False,
            "vocab_size": VOCABULARY,
        },
        shapes={
            "transformer.wte.weight": (VOCABULARY, 64),
            **{f"transformer.h.{b}.{name}": shape for b in range(2) for name, shape in BLOCK.items()},
            "transformer.ln_f.weight": (64,),
            "transformer.ln_f.bias": (64,),
            "lm_head.weight": (VOCABULARY, 64),
        },
        raw_config=True,
        no_logits="transformers does not build it",
    ),
}
