"""What the Gemmas share: norms stored minus one, which layers slide, how attention is scaled, what is assumed."""

from collections.abc import Callable
from typing import Any

from ggufkit.architectures._blocks import COMMON_DEFAULTS, LAYERS, require_activation
from ggufkit.architectures._ops import AddOne
from ggufkit.architectures._rope import rope
from ggufkit.architectures._sizes import Config
from ggufkit.architectures._spec import TensorTable, blocks, to
from ggufkit.errors import CheckpointError

PLUS_ONE = AddOne()
TWO_NORMS: TensorTable = {
    "model.norm": to("output_norm", op=PLUS_ONE),
    **blocks(
        LAYERS,
        {
            "input_layernorm": to("attn_norm", op=PLUS_ONE),
            "post_attention_layernorm": to("ffn_norm", op=PLUS_ONE),
        },
    ),
}
FOUR_NORMS = blocks(
    LAYERS,
    {
        "post_attention_layernorm": to("post_attention_norm", op=PLUS_ONE),
        "pre_feedforward_layernorm": to("ffn_norm", op=PLUS_ONE),
        "post_feedforward_layernorm": to("post_ffw_norm", op=PLUS_ONE),
    },
)
_LAYERS_27B = {"gemma2": 46, "gemma3": 62}  # the sizes whose attention llama.cpp scales by hidden_size / heads

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


def check_sliding_rope(config: Config) -> None:
    """Refuse a scaled rope of sliding attention: llama.cpp scales that of full attention only.

    Raises:
        CheckpointError: the rope of sliding attention is scaled.
    """
    if rope(config, "sliding_attention")["rope_type"] != "default":
        raise CheckpointError("config.json: the rope of sliding attention is scaled; llama.cpp scales the other only")


def check_gemma(config: Config, name: str) -> None:
    """Refuse another activation, or an attention scale that llama.cpp does not compute for a GGUF architecture.

    Raises:
        CheckpointError: it has either.
    """
    require_activation(config, "gelu_pytorch_tanh", keys=("hidden_activation",))
    config.get("hidden_act")  # released configs carry both; transformers computes the other
    is_27b = config["num_hidden_layers"] == _LAYERS_27B.get(name)
    scaled_by = config["hidden_size"] // config["num_attention_heads"] if is_27b else config["head_dim"]
    if config["query_pre_attn_scalar"] != scaled_by:
        raise CheckpointError(
            f"config.json: query_pre_attn_scalar is {config['query_pre_attn_scalar']}; llama.cpp scales attention by "
            f"{scaled_by:g} for a model of {config['num_hidden_layers']} layers",
            hint="no GGUF key expresses this; the model's answers would be wrong",
        )
