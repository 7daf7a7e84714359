"""HRM-Text."""

from recipes._recipe import Recipe, decoder


def settings(**changes):
    return decoder(num_key_value_heads=None, num_hidden_layers=2, **changes)


RECIPES = {
    "hrm-text": Recipe("HrmTextForCausalLM", settings(head_dim=16, prefix_lm=False)),
    "hrm-text-cycles": Recipe(
        "HrmTextForCausalLM",
        settings(head_dim=32, H_cycles=1, L_cycles=2, embedding_scale=3.0, tie_word_embeddings=True),
        dtype="F32",
    ),
    # The first configs: num_hidden_layers is that of one stack.
    "hrm-text-first": Recipe(
        "HrmTextForCausalLM",
        settings(head_dim=16, H_cycles=2, L_cycles=1),
        extra_config={"num_hidden_layers": 2, "num_layers_per_stack": None},
        raw_config=True,
    ),
}
