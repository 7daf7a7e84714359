"""Sizes that configs leave to be worked out."""

from collections.abc import Mapping
from typing import Any, TypeAlias

Config: TypeAlias = Mapping[str, Any]


def head_dim(config: Config) -> int:
    """Read the head size, which older configs leave to be divided out."""
    return int(config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"])
