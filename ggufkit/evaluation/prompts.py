"""Token ids to compute logits of: texts, or random ids where no library cuts texts; none that a model treats apart."""

import contextlib
from collections.abc import Mapping, Sequence

import numpy as np

from ggufkit.architectures import spec_for
from ggufkit.checkpoints import Checkpoint
from ggufkit.conversion.plan import complete
from ggufkit.errors import CheckpointError, MissingDependencyError
from ggufkit.evaluation import texts
from ggufkit.evaluation.original_tokenizer import open_tokenizer
from ggufkit.gguf_file.reader import GgufHeader

_LENGTHS = (0.1, 0.3, 0.6, 1.0)  # of the prompts, as shares of the longest
# How keys of config.json and of GGUF files end that name tokens: `pad_token_id`, `image_token_index`, `eos_token_id`.
_NAMES_TOKENS = ("_token_id", "_token_ids", "_token_index")


def make_prompts(checkpoint: Checkpoint, header: GgufHeader, tokens: int) -> list[list[int]]:
    """Make token ids of texts, of several lengths up to `tokens`; random ones where no library cuts the texts.

    Special tokens are left out, but for the one that opens a text: after padding Roberta's transformers count
    positions otherwise, and where a token stands for an image transformers wants the image.
    """
    architecture = header.metadata.get("general.architecture")
    context = header.metadata.get(f"{architecture}.context_length")
    longest = max(2, min(tokens, context if isinstance(context, int) else tokens))
    lengths = [max(2, int(longest * share)) for share in _LENGTHS]
    bos = header.metadata.get("tokenizer.ggml.bos_token_id")
    front = [bos] if header.metadata.get("tokenizer.ggml.add_bos_token") is True and isinstance(bos, int) else []
    special, rows = special_ids(checkpoint, header), vocabulary_rows(header)
    try:
        tokenizer = open_tokenizer(checkpoint.folder)
        cut = [[token for token in tokenizer.encode(text) if token not in special] for text in texts.PROMPTS]
    except (MissingDependencyError, CheckpointError):
        cut = []
    if not all(cut) or not cut or any(token >= rows for ids in cut for token in ids):
        random = np.random.default_rng(0)
        plain = np.array([token for token in range(rows) if token not in special] or [0])
        return [[*front, *random.choice(plain, length - len(front)).tolist()] for length in lengths]
    return [
        ([*front, *ids] * -(-length // (len(ids) + len(front))))[:length]
        for ids, length in zip(cut, lengths, strict=True)
    ]


def special_ids(checkpoint: Checkpoint, header: GgufHeader) -> set[int]:
    """List the ids that config.json, transformers' defaults for it, or the file give a role."""
    config: Mapping[str, object] = checkpoint.config
    with contextlib.suppress(CheckpointError):  # no spec of ours: what the file says is all that is known
        config = complete(checkpoint.config, spec_for(checkpoint.config.architecture, checkpoint.config.model_type))
    found: set[int] = set()
    for source in (config, checkpoint.config.outer, header.metadata):
        for key in source:
            if key.endswith(_NAMES_TOKENS):
                value = source[key]
                values: Sequence[object] = value if isinstance(value, list) else [value]
                found |= {token for token in values if isinstance(token, int)}
    return found


def vocabulary_rows(header: GgufHeader) -> int:
    """Count the tokens that the embedding has rows for; 1 where the file does not tell."""
    embedding = next((tensor for tensor in header.tensors if tensor.name == "token_embd.weight"), None)
    if embedding and len(embedding.shape) == 2:
        return embedding.shape[1]
    tokens = header.metadata.entries.get("tokenizer.ggml.tokens")
    return tokens.count if tokens else 1
