"""A twin that computes the same function with outliers in its weights, as large language models have them.

About 1 % of the channels of each norm are multiplied by 8, 16 or 32, and the columns of the matrices that read them are
divided by the same; so are value rows against output columns, and up rows against down columns. Powers of two change
exponents only, so that each weight times its channel is the same to the bit.
"""

from __future__ import annotations

from typing import Any

import torch

_FACTORS = (8.0, 16.0, 32.0)
_SHARE = 0.01


def inject_outliers(weights: dict[str, torch.Tensor], config: dict[str, Any], seed: int) -> dict[str, torch.Tensor]:
    """Return the weights (by their names in transformers' Llama) of the twin."""
    twin = {name: tensor.clone() for name, tensor in weights.items()}
    generator = torch.Generator().manual_seed(seed)

    def factors(channels: int) -> torch.Tensor:
        chosen = torch.randperm(channels, generator=generator)[: max(1, round(channels * _SHARE))]
        found = torch.ones(channels)
        found[chosen] = torch.tensor(_FACTORS)[torch.randint(len(_FACTORS), chosen.shape, generator=generator)]
        return found

    group = config["num_attention_heads"] // config["num_key_value_heads"]
    for layer in range(config["num_hidden_layers"]):
        prefix = f"model.layers.{layer}"
        for norm, readers in (
            ("input_layernorm", ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")),
            ("post_attention_layernorm", ("mlp.gate_proj", "mlp.up_proj")),
        ):
            scale = factors(config["hidden_size"])
            twin[f"{prefix}.{norm}.weight"] *= scale
            for reader in readers:
                twin[f"{prefix}.{reader}.weight"] /= scale
        value, output = f"{prefix}.self_attn.v_proj.weight", f"{prefix}.self_attn.o_proj.weight"
        scale = factors(twin[value].shape[0])
        twin[value] *= scale[:, None]
        # Each group of query heads reads the same value head.
        twin[output] /= scale.view(-1, 1, config["head_dim"]).repeat(1, group, 1).flatten()
        scale = factors(config["intermediate_size"])
        twin[f"{prefix}.mlp.up_proj.weight"] *= scale[:, None]
        twin[f"{prefix}.mlp.down_proj.weight"] /= scale
    if not config["tie_word_embeddings"]:
        scale = factors(config["hidden_size"])
        twin["model.norm.weight"] *= scale
        twin["lm_head.weight"] /= scale
    return twin
