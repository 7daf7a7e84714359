"""ModernBert: rope instead of learned positions, a fused q, k and v, GeGLU, and windows but for every third block."""

import dataclasses
from collections.abc import Iterable

from ggufkit.architectures._blocks import BODY, require, require_activation
from ggufkit.architectures._encoders import ENCODER, GELUS, SIZES, classifier_pooling, dropped, modules_left_out
from ggufkit.architectures._rope import rope
from ggufkit.architectures._sizes import Config
from ggufkit.architectures._spec import ArchSpec, MetadataTable, TensorTable, Vocabulary, blocks
from ggufkit.errors import CheckpointError

TENSORS: TensorTable = {
    "embeddings.tok_embeddings": "token_embd",
    "embeddings.norm": "token_embd_norm",
    "final_norm": "output_norm",
    **blocks(
        "layers",
        {
            "attn_norm": "attn_norm",
            "attn.Wqkv": "attn_qkv",
            "attn.Wo": "attn_output",
            "mlp_norm": "ffn_norm",
            "mlp.Wi": "ffn_up",
            "mlp.Wo": "ffn_down",
        },
    ),
}


def windowed(config: Config) -> list[bool]:
    """Tell of each block whether its attention has a window.

    Raises:
        CheckpointError: the list of layer types has another length than there are blocks.
    """
    types = config.get("layer_types")
    if types is None:
        period = config.get("global_attn_every_n_layers") or 3
        return [bool(block % period) for block in range(config["layers"])]
    if len(types) != config["layers"]:
        raise CheckpointError(f"config.json: layer_types has {len(types)} entries for {config['layers']} layers")
    return [name == "sliding_attention" for name in types]


def pattern(config: Config) -> int | list[bool] | None:
    """Say which blocks have windows: nothing where llama.cpp assumes it, a period, or a list where there is none."""
    given, found = config.get("global_attn_every_n_layers"), windowed(config)
    if not any(found):
        return None
    for period in (given, 3, *range(1, len(found) + 1)):
        if period and found == [bool(block % period) for block in range(len(found))]:
            return None if period == 3 and "global_attn_every_n_layers" not in config else period
    return found


METADATA: MetadataTable = {
    "attention.layer_norm_epsilon": "rms_norm_eps",
    "attention.layer_norm_rms_epsilon": "rms_norm_eps",  # llama.cpp's converter writes both
    # llama.cpp aborts on a window that no block has
    "attention.sliding_window": lambda c: c["local_attention"] if any(windowed(c)) else None,
    "attention.sliding_window_pattern": pattern,
    "rope.freq_base": lambda c: rope(c)["rope_theta"],
    "rope.freq_base_swa": lambda c: rope(c, "sliding_attention")["rope_theta"],
    "rope.scaling.type": lambda c: "none",  # noqa: ARG005 - a constant
    "vocab_size": "vocab_size",
    "hidden_activation": "hidden_act",
    "classifier.pooling_type": classifier_pooling,
}


def remarks(config: Config) -> Iterable[str]:
    """Refuse another activation, before the head or in the blocks."""
    require_activation(config, *GELUS, "silu")
    require_activation(config, *GELUS, keys=("classifier_activation",))
    require(config, "llama.cpp has no bias there", norm_bias=False, mlp_bias=False, attention_bias=False)
    if all(windowed(config)):
        raise CheckpointError("config.json: no layer has full attention; llama.cpp runs no such ModernBert")
    yield from modules_left_out(config)


MODERNBERT = ArchSpec(
    name="modern-bert",
    hf_architectures=("ModernBertModel", "ModernBertForMaskedLM"),
    metadata=(BODY, ENCODER, METADATA),
    tensors=(TENSORS, dropped("head.dense", "head.norm", "decoder")),
    kinds=lambda config, block: "later" if block else "first",  # noqa: ARG005 - the protocol's
    kind_of={"attn_norm": "later"},  # the first block takes the embeddings as they are: they were normed
    sizes=SIZES,
    shapes={"ffn_up": "2*ff hidden"},
    ropes=("per-layer",),
    defaults={
        "modernbert": {
            "norm_eps": 1e-5,
            "local_attention": 128,
            "max_position_embeddings": 8192,
            "hidden_activation": "gelu",
            "classifier_pooling": "cls",
            "rope_theta": 160000.0,
            "rope_local_base_freq": 10000.0,
        }
    },
    vocabulary=Vocabulary.MODERN_BERT,
    remarks=remarks,
)
CLASSIFIER = dataclasses.replace(
    MODERNBERT,
    hf_architectures=("ModernBertForSequenceClassification",),
    tensors=(TENSORS, {"head.dense": "cls", "head.norm": "cls.norm", "classifier": "cls.output"}, dropped("decoder")),
    biases="cls.output",
)

SPECS = (MODERNBERT, CLASSIFIER)
