"""What the Gemmas share: which layers slide, and what transformers assumes."""

from collections.abc import Callable
from typing import Any

from ggufkit.architectures._blocks import COMMON_DEFAULTS
from ggufkit.architectures._sizes import Config

GEMMA3_DEFAULTS = {
    **COMMON_DEFAULTS,
    "rope_theta": 1e6,
    "rope_local_base_freq": 10000.0,
    "vocab_size": 262208,
    "hidden_size": 2304,
    "intermediate_size": 9216,
    "num_hidden_layers": 26,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "max_position_embeddings": 131072,
    "query_pre_attn_scalar": 256,
    "sliding_window": 4096,
    "tie_word_embeddings": True,
}


def slides(config: Config, period: int) -> list[bool]:
    """Tell of each block whether its attention slides: all but every `period`th where the config does not say."""
    layers, types = config["num_hidden_layers"], config.get("layer_types")
    if types:
        return [kind == "sliding_attention" for kind in types]
    if not config.get("sliding_window"):
        return [False] * layers
    period = config.get("sliding_window_pattern") or config.get("_sliding_window_pattern") or period
    return [(block + 1) % period != 0 for block in range(layers)]


def unusual_pattern(period: int) -> Callable[[Config], list[bool] | None]:
    """Say which blocks slide where llama.cpp would take it to be all but every `period`th, and it is not so."""

    def pattern(config: Config) -> Any:
        found = config["slides"]
        usual = [(block + 1) % period != 0 for block in range(len(found))]
        return found if found != usual and any(found) else None

    return pattern
