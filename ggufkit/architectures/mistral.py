"""Mistral 3 and Ministral 3: Llama's tensors, roped by yarn and with queries that grow with their position."""

from collections.abc import Iterable

from ggufkit.architectures._blocks import ATTENTION, DECODER, EMBEDDINGS, GATED_MLP, PRE_NORMS
from ggufkit.architectures._rope import own_attention_factor, rope
from ggufkit.architectures._sizes import Config
from ggufkit.architectures._spec import ArchSpec, MetadataTable, Vocabulary
from ggufkit.architectures.llama import BIASES, MISTRAL, PERMUTED_QK, SIZES
from ggufkit.architectures.llama import remarks as llama_remarks
from ggufkit.errors import CheckpointError

YARN: MetadataTable = {
    "rope.scaling.yarn_log_multiplier": lambda c: rope(c).get("mscale_all_dim") if is_ministral(c) else None,
    # there llama.cpp works out the rest from the multiplier
    "rope.scaling.attn_factor": lambda c: None if is_ministral(c) else own_attention_factor(c),
    "attention.temperature_scale": lambda c: rope(c).get("llama_4_scaling_beta") if is_ministral(c) else None,
}


def is_ministral(config: Config) -> bool:
    """Tell whether the text model is a Ministral 3, not a Mistral as in Mistral Small 3.1."""
    return config.get("model_type") == "ministral3"


def remarks(config: Config) -> Iterable[str]:
    """Refuse Mistral 4, which comes under the same name, and a Ministral without yarn, which llama.cpp cannot load."""
    if config.get("model_type") == "mistral4":
        raise CheckpointError(
            "config.json: the text model is a Mistral 4, not supported", hint="ggufkit convert --converter llama.cpp"
        )
    if is_ministral(config) and rope(config)["rope_type"] != "yarn":
        raise CheckpointError("config.json: a Ministral 3 whose rope is not yarn; llama.cpp knows no other")
    yield from llama_remarks(config)


MINISTRAL_ROPE = {
    "rope_type": "yarn",
    "rope_theta": 1e6,
    "factor": 16.0,
    "original_max_position_embeddings": 16384,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "mscale_all_dim": 1.0,
    "mscale": 1.0,
    "llama_4_scaling_beta": 0.1,
}

MISTRAL3 = ArchSpec(
    name="mistral3",
    hf_architectures=("Ministral3ForCausalLM", "Mistral3ForConditionalGeneration"),
    metadata=(DECODER, SIZES, YARN),
    tensors=(EMBEDDINGS, PRE_NORMS, ATTENTION, GATED_MLP, PERMUTED_QK),
    biases=BIASES,
    ropes=("linear", "yarn", "betas", "llama3"),
    defaults={
        "ministral3": {
            "rms_norm_eps": 1e-5,
            "max_position_embeddings": 262144,
            "num_key_value_heads": 8,
            "head_dim": 128,
            "rope_parameters": MINISTRAL_ROPE,
        },
        "mistral": MISTRAL,
    },
    vocabulary=Vocabulary.LLAMA,
    remarks=remarks,
)

SPECS = (MISTRAL3,)
