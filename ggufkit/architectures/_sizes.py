"""Sizes that configs leave to be worked out."""

from collections.abc import Mapping
from typing import Any, TypeAlias

Config: TypeAlias = Mapping[str, Any]


def head_dim(config: Config) -> int:
    """Read the head size, which older configs leave to be divided out."""
    return int(config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"])


def head_count(config: Config, key: str = "num_attention_heads") -> int:
    """Read a number of heads; a config that is silent on key and value heads has one for each query head."""
    return int(config.get(key) or config["num_attention_heads"])
