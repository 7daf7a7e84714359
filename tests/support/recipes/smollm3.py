"""SmolLM 3."""

from recipes._recipe import Recipe, decoder
from recipes.llama import YARN

RECIPES = {
    "smollm3": Recipe("SmolLM3ForCausalLM", decoder(num_hidden_layers=5)),
    "smollm3-linear": Recipe(
        "SmolLM3ForCausalLM",
        decoder(
            tie_word_embeddings=False,
            num_hidden_layers=4,
            num_key_value_heads=1,
            rope_parameters={"rope_type": "linear", "factor": 2.0, "rope_theta": 50000.0},
        ),
    ),
    "smollm3-yarn": Recipe("SmolLM3ForCausalLM", decoder(num_hidden_layers=4, rope_parameters=YARN)),
}
