"""EXAONE 4: norms behind attention and feed-forward, windows in most layers, full attention unroped."""

from collections.abc import Iterable

from ggufkit.architectures._blocks import (
    ATTENTION,
    DECODER,
    EMBEDDINGS,
    GATED_MLP,
    HEAD_NORMS,
    OPTIONAL_QKV_BIASES,
    require_activation,
)
from ggufkit.architectures._decoders import POST_NORMS, VOCABULARY_SIZE, sliding_pattern
from ggufkit.architectures._rope import llama3_frequency_factors
from ggufkit.architectures._sizes import Config
from ggufkit.architectures._spec import ArchSpec, MetadataTable, Vocabulary, maybe
from ggufkit.errors import CheckpointError

WINDOWS: MetadataTable = {
    "attention.sliding_window": maybe("sliding_window"),
    "attention.sliding_window_pattern": lambda c: _pattern(c) if c.get("sliding_window") else None,
}
_LAYERS_32B = 64  # the one size to which llama.cpp applies windows, and leaves full attention unroped


def _pattern(config: Config) -> list[bool]:
    """Tell which layers slide: listed, spelled ("LLLG", L for local) or every so many but one."""
    if listed := sliding_pattern(config):
        return listed
    given = config.get("sliding_window_pattern", 4)
    layers = range(config["layers"])
    if isinstance(given, str) and given:
        return [given[block % len(given)] == "L" for block in layers]
    return [bool((block + 1) % given) for block in layers] if given else [False for _ in layers]


def remarks(config: Config) -> Iterable[str]:
    """Refuse another activation, and windows where llama.cpp applies none or none where it does."""
    require_activation(config, "silu")
    window, layers = config.get("sliding_window"), config["layers"]
    config.get("layer_types")  # they matter where there is a window
    if bool(window) != (layers == _LAYERS_32B):
        raise CheckpointError(
            f"config.json: sliding_window is {window} with {layers} layers; llama.cpp's EXAONE 4 has windows, and "
            f"full attention without rope, with {_LAYERS_32B} layers and only then",
            hint="no GGUF key expresses this; the model's answers would be wrong",
        )
    return ()


EXAONE4 = ArchSpec(
    name="exaone4",
    hf_architectures=("Exaone4ForCausalLM",),
    metadata=(DECODER, WINDOWS, VOCABULARY_SIZE),
    tensors=(EMBEDDINGS, POST_NORMS, ATTENTION, HEAD_NORMS, GATED_MLP),
    defaults={
        "exaone4": {
            "vocab_size": 102400,
            "hidden_size": 4096,
            "intermediate_size": 16384,
            "num_hidden_layers": 32,
            "num_attention_heads": 32,
            "num_key_value_heads": 32,
            "max_position_embeddings": 2048,
            "rms_norm_eps": 1e-5,
            "rope_theta": 10000.0,
            "sliding_window": 4096,
        }
    },
    ropes=("linear", "yarn", "llama3"),
    biases=OPTIONAL_QKV_BIASES,
    shapes={"attn_output": "hidden hidden"},
    extra_tensors=llama3_frequency_factors,
    vocabulary=Vocabulary.BYTE_LEVEL,
    remarks=remarks,
)

SPECS = (EXAONE4,)
