"""The facts of a checkpoint folder, from its config, the headers of its weights and its tokenizer's files."""

import hashlib
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ggufkit.checkpoints import open_checkpoint
from ggufkit.checkpoints.config import Config
from ggufkit.checkpoints.fingerprint import origin
from ggufkit.checkpoints.vocabulary.chat_templates import chat_template_metadata
from ggufkit.checkpoints.vocabulary.files import TokenizerFiles
from ggufkit.errors import CheckpointError
from ggufkit.inspection.facts import Inspection, SpecialToken, TemplateFacts, TensorFacts, VocabularyFacts, type_shares
from ggufkit.inspection.gguf import TEMPLATE

_SIZES = {
    "num_hidden_layers": "block_count",
    "hidden_size": "embedding_length",
    "intermediate_size": "feed_forward_length",
    "num_attention_heads": "attention.head_count",
    "num_key_value_heads": "attention.head_count_kv",
    "head_dim": "attention.key_length",
    "sliding_window": "attention.sliding_window",
    "num_experts": "expert_count",
    "num_local_experts": "expert_count",
    "n_routed_experts": "expert_count",
    "num_experts_per_tok": "expert_used_count",
    "rope_theta": "rope.freq_base",
}
_CONTEXT = ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length")
_TOKENIZERS = ("tokenizer.json", "tokenizer.model", "tekken.json", "vocab.txt", "vocab.json")


def inspect_checkpoint(folder: Path) -> Inspection:
    """Read the facts of a checkpoint folder; its weights stay where they are.

    Raises:
        CheckpointError: config.json or the weights are missing or malformed.
        MissingDependencyError: the weights are `.bin` and torch is not installed.
    """
    with open_checkpoint(folder) as checkpoint:
        config = checkpoint.config
        tensors = tuple(
            TensorFacts(name, tensor.dtype, tuple(tensor.shape), tensor.size, Path(tensor.position[0]).name)
            for name, tensor in checkpoint.stored.items()
        )
        files = {str(path): path.stat().st_size for path in sorted({folder / tensor.file for tensor in tensors})}
        parameters = sum(math.prod(tensor.shape) for tensor in checkpoint.tensors.values())
    warnings: list[str] = []
    template = _template(folder, warnings)
    return Inspection(
        path=folder,
        kind="checkpoint",
        files=files,
        architecture=config.architecture,
        name=_name(folder),
        parameters=parameters,
        active_parameters=None,
        tensor_bytes=sum(tensor.bytes for tensor in tensors),
        types=type_shares((tensor.type, math.prod(tensor.shape), tensor.bytes) for tensor in tensors),
        file_type=_quantization(config),
        context_length=next((config[key] for key in _CONTEXT if isinstance(config.get(key), int)), None),
        sizes={name: config[key] for key, name in _SIZES.items() if config.get(key) is not None},
        vocabulary=_vocabulary(folder, config),
        template=template,
        imatrix=None,
        license=_license(folder),
        origin=_origin(folder),
        warnings=tuple(warnings),
        tensors=tensors,
        metadata=dict(config.given),
    )


def _name(folder: Path) -> str:
    found = origin(folder)
    return found.repository.rpartition("/")[2] if found else folder.resolve().name


def _quantization(config: Config) -> str | None:
    found = config.get("quantization_config")
    return str(found.get("quant_method", "quantized")) if isinstance(found, Mapping) else None


def _vocabulary(folder: Path, config: Config) -> VocabularyFacts | None:
    kind = next((name for name in _TOKENIZERS if (folder / name).is_file()), None)
    if kind is None:
        return None
    ids = {role: config.get(f"{role}_token_id") for role in ("bos", "eos", "pad")}
    special = [
        SpecialToken(role, number, None)
        for role, found in ids.items()
        for number in (found if isinstance(found, list) else [found])
        if isinstance(number, int)
    ]
    size = config.get("vocab_size")
    return VocabularyFacts(kind, None, size if isinstance(size, int) else 0, 0, tuple(special), None, None)


def _template(folder: Path, warnings: list[str]) -> TemplateFacts | None:
    try:
        found = chat_template_metadata(TokenizerFiles.read(folder))
    except CheckpointError as error:
        warnings.append(str(error))
        return None
    text = found.get(TEMPLATE)
    if not isinstance(text, str):
        return None
    others = tuple(key.removeprefix(f"{TEMPLATE}.") for key in found if key.startswith(f"{TEMPLATE}."))
    return TemplateFacts(len(text), hashlib.sha256(text.encode()).hexdigest(), others)


def _license(folder: Path) -> str | None:
    from gguf import Metadata

    try:
        card: dict[str, Any] = Metadata.load_model_card(folder)
        found = card.get("license_name") or card.get("license")
    except Exception:  # noqa: BLE001 - it parses strangers' YAML, and lets out whatever comes of that
        return None
    return str(found) if found else None


def _origin(folder: Path) -> dict[str, str]:
    found = origin(folder)
    return {"repository": found.repository, "revision": found.revision} if found else {}
