"""Seed-OSS."""

from recipes._recipe import Recipe, decoder
from recipes.llama import YARN

RECIPES = {
    "seed-oss": Recipe("SeedOssForCausalLM", decoder(head_dim=32)),
    "seed-oss-unbiased": Recipe(
        "SeedOssForCausalLM",
        decoder(head_dim=16, attention_bias=False, tie_word_embeddings=True, num_key_value_heads=1),
    ),
    "seed-oss-yarn-scaled": Recipe(
        "SeedOssForCausalLM",
        decoder(head_dim=16, rope_parameters={**YARN, "mscale": 1.0, "mscale_all_dim": 0.5}),
        explained={"seed_oss.rope.scaling.attn_factor": "llama.cpp's converter does not read mscale"},
    ),
    "seed-oss-yarn": Recipe("SeedOssForCausalLM", decoder(head_dim=32, rope_parameters=YARN)),
}
