"""ERNIE 4.5, dense."""

from recipes._recipe import Recipe, decoder


def fused(shapes):
    """The first release's names and fused tensors."""
    others = {
        name.replace("model.", "ernie."): shape
        for name, shape in shapes.items()
        if not any(part in name for part in ("q_proj", "k_proj", "v_proj", "gate_proj", "up_proj"))
    }
    blocks = sorted({name.split(".")[2] for name in shapes if ".layers." in name})
    return {
        **others,
        **{f"ernie.layers.{block}.self_attn.qkv_proj.weight": (128, 64) for block in blocks},
        **{f"ernie.layers.{block}.mlp.up_gate_proj.weight": (192, 64) for block in blocks},
    }


RECIPES = {
    "ernie": Recipe("Ernie4_5ForCausalLM", decoder(head_dim=32)),
    "ernie-untied": Recipe(
        "Ernie4_5ForCausalLM",
        decoder(
            tie_word_embeddings=False,
            head_dim=16,
            num_key_value_heads=4,
            rope_parameters={"rope_type": "linear", "factor": 2.0, "rope_theta": 50000.0},
        ),
    ),
    "ernie-fused": Recipe(
        "Ernie4_5ForCausalLM",
        decoder(head_dim=16, num_hidden_layers=2),
        extra_config={"architectures": ["Ernie4_5_ForCausalLM"]},
        alter=fused,
        no_logits="transformers does not read the first release's names",
        dtype="F16",
    ),
}
