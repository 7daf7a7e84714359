"""Sizes: what a config says, or leaves to be worked out, under one short name each; and the formulas made of them.

A formula is a sum of products of names and numbers: `"heads*head"`, `"kv_rank+rope"`, `"2*ff"`. A shape is a list of
formulas, outermost axis first: `"heads*head hidden"`. A name is a key of SIZES, of the spec's own `sizes`, or of
config.json. Where a size differs from block to block it is a list, and a shape takes the block's own.
"""

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from ggufkit.errors import CheckpointError

Config: TypeAlias = Mapping[str, Any]
Size: TypeAlias = str | Callable[[Config], Any]
SizeTable: TypeAlias = Mapping[str, Size]


def first_of(*keys: str) -> Callable[[Config], Any]:
    """Read the first of these config keys that is set; KeyError naming the first when none is."""

    def read(config: Config) -> Any:
        return next((value for key in keys if (value := config.get(key)) is not None), None) or config[keys[0]]

    return read


def head_dim(config: Config) -> int:
    """Read the head size, which older configs leave to be divided out."""
    return int(config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"])


def key_value_heads(config: Config) -> Any:
    """Read the number of key and value heads; a config that is silent has one for each query head."""
    return config.get("num_key_value_heads") or config["num_attention_heads"]


SIZES: SizeTable = {
    "hidden": "hidden_size",
    "vocab": "vocab_size",
    "layers": "num_hidden_layers",
    "inputs_first": lambda _: False,  # of stacked experts; the planner looks at their shapes
    "predicted": lambda _: 0,  # blocks that predict further tokens; the planner counts them
    "blocks": lambda c: c["layers"] + c["predicted"],
    "heads": "num_attention_heads",
    "kv_heads": key_value_heads,
    "head": head_dim,  # of queries and keys
    "value": "head",  # of values
    "ff": "intermediate_size",
    "experts": "num_experts",
    "expert_ff": first_of("moe_intermediate_size", "intermediate_size"),
    "shared_ff": lambda c: c["n_shared_experts"] * c["expert_ff"],
    # latent attention (MLA)
    "q_rank": "q_lora_rank",
    "kv_rank": "kv_lora_rank",
    "nope": "qk_nope_head_dim",
    "rope": "qk_rope_head_dim",
}


def derived(table: SizeTable) -> dict[str, Callable[[Config], Any]]:
    """Turn a table of sizes into functions of a config, as `Config.completed` wants them."""

    def reader(source: Size) -> Callable[[Config], Any]:
        return (lambda config: config[source]) if isinstance(source, str) else source

    return {name: reader(source) for name, source in table.items()}


def size(config: Config, formula: str, block: int | None = None) -> int:
    """Work out a formula; `block` chooses from sizes that differ from block to block.

    Raises:
        CheckpointError: a size is not a whole number, or has no value for the block.
        KeyError: the config does not say.
    """
    return sum(_product(config, term, block) for term in formula.split("+"))


def shape(config: Config, formulas: str, block: int | None = None) -> tuple[int, ...]:
    """Work out a shape, such as `"heads*head hidden"`. Raises as `size`."""
    return tuple(size(config, formula, block) for formula in formulas.split())


def _product(config: Config, term: str, block: int | None) -> int:
    product = 1
    for name in term.split("*"):
        if name.isdecimal():
            product *= int(name)
            continue
        value = config[name]
        if isinstance(value, list | tuple):
            if block is None or block >= len(value):
                raise CheckpointError(f"config.json: {name} is {value!r}, which has no value for block {block}")
            value = value[block]
        if isinstance(value, bool) or not isinstance(value, int):
            raise CheckpointError(f"config.json: {name} is {value!r}, expected a whole number")
        product *= value
    return product
