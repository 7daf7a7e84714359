"""What encoders share: they look both ways, pool what they saw into one vector, and may have a head that classifies."""

from collections.abc import Iterable, Iterator

from ggufkit.architectures._blocks import require, require_activation
from ggufkit.architectures._sizes import Config, SizeTable
from ggufkit.architectures._spec import MetadataTable, TensorTable
from ggufkit.errors import CheckpointError

_POOLING = {"mean": 1, "cls": 2, "lasttoken": 3}  # llama.h: llama_pooling_type
GELUS = ("gelu", "gelu_new", "gelu_python", "gelu_fast", "gelu_pytorch_tanh", "gelu_accurate")


def pooling(config: Config) -> int | None:
    """Number the pooling that a sentence-transformers folder asks for; None when it is no such folder.

    Raises:
        CheckpointError: llama.cpp does not pool like that.
    """
    mode = config.get("sentence_transformers_pooling")
    if mode is None:
        return None
    if mode not in _POOLING:
        raise CheckpointError(
            f"the folder pools by {mode!r} (modules.json); llama.cpp pools by {', '.join(_POOLING)}",
            hint="remove modules.json to convert the model without its pooling",
        )
    return _POOLING[mode]


def classifier_pooling(config: Config) -> int | None:
    """Number the pooling before a classification head; None when the config is silent. Raises CheckpointError."""
    mode = config.get("classifier_pooling")
    if mode is not None and mode not in ("cls", "mean"):
        raise CheckpointError(f"config.json: classifier_pooling is {mode!r}; llama.cpp pools by cls or mean")
    return None if mode is None else _POOLING[mode]


def is_classifier(config: Config) -> bool:
    """Tell whether the checkpoint has a head that classifies sequences."""
    return str(config["architectures"][0]).endswith("ForSequenceClassification")


def labels(config: Config) -> list[str]:
    """List the names of the classes, in the order of their numbers; two when the config is silent.

    Raises:
        CheckpointError: id2label does not number the classes from 0.
    """
    names = config.get("id2label")
    if not isinstance(names, dict) or not names:
        return [f"LABEL_{number}" for number in range(config.get("num_labels") or 2)]
    numbered = sorted((int(number), str(name)) for number, name in names.items() if str(number).isdecimal())
    if [number for number, _ in numbered] != list(range(len(names))):
        raise CheckpointError(f"config.json: id2label is {names!r}, expected names for 0, 1, 2...")
    return [name for _, name in numbered]


def named_labels(config: Config) -> list[str] | None:
    """Give the names of the classes where there is a head for them, or where they are not transformers' dummies."""
    names = labels(config)
    is_dummy = len(names) == 2 and names[0] == "LABEL_0"
    return names if is_classifier(config) or (config.get("id2label") and not is_dummy) else None


def require_encoder(config: Config, activations: Iterable[str] = GELUS) -> None:
    """Refuse another activation, positions relative to each other, or an encoder that is to decode."""
    require_activation(config, *activations)
    require(config, "llama.cpp runs this architecture as an encoder", is_decoder=False, add_cross_attention=False)
    require(config, "llama.cpp adds positions to the embeddings", position_embedding_type="absolute")


def modules_left_out(config: Config) -> Iterator[str]:
    """Say which modules of a sentence-transformers folder the GGUF file does not hold."""
    for kind in config.get("sentence_transformers_modules") or ():
        if kind not in ("Transformer", "Pooling", "Normalize"):
            yield f"the folder's module {kind} is left out: vectors differ from those of sentence-transformers"


POOLING: MetadataTable = {"pooling_type": pooling}
ENCODER: MetadataTable = {
    "attention.causal": lambda c: False,  # noqa: ARG005 - a constant
    **POOLING,
    "classifier.output_labels": named_labels,
}
SIZES: SizeTable = {"labels": lambda c: len(labels(c)), "positions": "max_position_embeddings"}


def dropped(*names: str) -> TensorTable:
    """Leave out tensors that only training or another task needs."""
    return dict.fromkeys(names)
