"""SmolLM 3: Llama with every fourth layer unroped."""

from collections.abc import Iterable

from ggufkit.architectures._blocks import (
    ATTENTION,
    DECODER,
    EMBEDDINGS,
    GATED_MLP,
    OPTIONAL_QKV_BIASES,
    PRE_NORMS,
    require_activation,
    window_not_applied,
)
from ggufkit.architectures._decoders import LLAMA_SIZES, PERMUTED_QK
from ggufkit.architectures._sizes import Config
from ggufkit.architectures._spec import ArchSpec, Vocabulary
from ggufkit.errors import CheckpointError

_UNROPED = 4  # llama.cpp leaves every fourth layer unroped (src/models/smollm3.cpp)


def remarks(config: Config) -> Iterable[str]:
    """Refuse another activation, or other layers without rope; warn of a window, which llama.cpp does not apply."""
    require_activation(config, "silu")
    interval = config.get("no_rope_layer_interval", _UNROPED)
    roped = config.get("no_rope_layers") or [int((block + 1) % interval != 0) for block in range(config["layers"])]
    if [bool(layer) for layer in roped] != [(block + 1) % _UNROPED != 0 for block in range(config["layers"])]:
        raise CheckpointError(
            f"config.json: no_rope_layers is {roped}; llama.cpp leaves every fourth layer unroped",
            hint="no GGUF key expresses this; the model's answers would be wrong",
        )
    config.get("layer_types")  # window_not_applied looks when there is a window
    yield from window_not_applied(config)


SMOLLM3 = ArchSpec(
    name="smollm3",
    hf_architectures=("SmolLM3ForCausalLM",),
    metadata=(DECODER, LLAMA_SIZES),
    tensors=(EMBEDDINGS, PRE_NORMS, ATTENTION, GATED_MLP, PERMUTED_QK),
    defaults={
        "smollm3": {
            "vocab_size": 128256,
            "hidden_size": 2048,
            "intermediate_size": 11008,
            "num_hidden_layers": 36,
            "num_attention_heads": 16,
            "num_key_value_heads": 4,
            "max_position_embeddings": 32768,
            "rms_norm_eps": 1e-6,
            "rope_theta": 2000000.0,
            "use_sliding_window": False,
            "tie_word_embeddings": True,
        }
    },
    biases=OPTIONAL_QKV_BIASES,
    vocabulary=Vocabulary.LLAMA,
    remarks=remarks,
)

SPECS = (SMOLLM3,)
