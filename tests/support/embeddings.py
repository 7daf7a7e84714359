"""Run encoders in libllama: what each token becomes, what is pooled of them, the head's scores, a decoder's logits."""

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from recipes import RECIPES

from ggufkit.llamacpp import binding

TOKENS = 40  # longer than ModernBert's windows
DECODED = 12
POOLING = {"none": 0, "mean": 1, "cls": 2, "rank": 4}  # llama.h: llama_pooling_type


@contextlib.contextmanager
def _context(path: Path, pooling: str | None) -> Iterator[tuple[Any, Any, Any]]:
    library = binding.load()
    parameters = library.llama_model_default_params()
    parameters.n_gpu_layers = 0
    model = library.llama_model_load_from_file(str(path).encode(), parameters)
    assert model, binding.log_tail()
    settings = library.llama_context_default_params()
    settings.n_ctx = settings.n_batch = settings.n_ubatch = 64
    settings.n_threads = settings.n_threads_batch = 1
    settings.type_k = settings.type_v = 0  # float32
    settings.flash_attn_type = 0
    settings.embeddings = pooling is not None
    settings.pooling_type = POOLING.get(pooling, 0)
    context = library.llama_init_from_model(model, settings)
    assert context, binding.log_tail()
    try:
        yield library, model, context
    finally:
        library.llama_free(context)
        library.llama_model_free(model)


def _batch(library: Any, tokens: list[int]) -> Any:
    batch = library.llama_batch_init(len(tokens), 0, 1)
    batch.n_tokens = len(tokens)
    for place, token in enumerate(tokens):
        batch.token[place], batch.pos[place], batch.logits[place] = token, place, 1
        batch.n_seq_id[place], batch.seq_id[place][0] = 1, 0
    return batch


def _copy(pointer: Any, count: int) -> np.ndarray:
    return np.ctypeslib.as_array(pointer, (count,)).copy()


def encode(path: Path, tokens: list[int], pooling: str) -> np.ndarray:
    """Give tokens x width for "none", else one vector: of the width, or for "rank" a score for each label."""
    with _context(path, pooling) as (library, model, context):
        assert library.llama_encode(context, _batch(library, tokens)) == 0
        width = library.llama_model_n_embd(model)
        if pooling == "none":
            rows = [_copy(library.llama_get_embeddings_ith(context, row), width) for row in range(len(tokens))]
            return np.stack(rows)
        count = library.llama_model_n_cls_out(model) if pooling == "rank" else width
        return _copy(library.llama_get_embeddings_seq(context, 0), count)


def translate(path: Path, tokens: list[int], decoded: list[int]) -> np.ndarray:
    """Give the decoder's logits after these tokens were encoded, decoded tokens x vocabulary."""
    with _context(path, None) as (library, model, context):
        assert library.llama_encode(context, _batch(library, tokens)) == 0
        assert library.llama_decode(context, _batch(library, decoded)) == 0
        count = library.llama_vocab_n_tokens(library.llama_model_get_vocab(model))
        rows = [_copy(library.llama_get_logits_ith(context, row), count) for row in range(len(decoded))]
        return np.stack(rows)


def job(name: str, folder: Path) -> dict[str, Any]:
    """What `oracles/transformers_embeddings.py` is to compute of a recipe whose checkpoint is in this folder."""
    return {"folder": str(folder), "model": RECIPES[name].model, "tokens": text(), "decoded": start()}


def text() -> list[int]:
    return np.random.default_rng(1).integers(5, 384, TOKENS).tolist()


def start() -> list[int]:
    return [0, *np.random.default_rng(2).integers(5, 384, DECODED - 1).tolist()]


def distances(name: str, path: Path, theirs: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Say how far (relative L2) libllama's results of a file are from transformers', by what is compared."""
    if "logits" in theirs:
        return {"logits": _distance(translate(path, text(), start()), theirs["logits"])}
    hidden = theirs["hidden"]
    found = {
        "hidden states": _distance(encode(path, text(), "none"), hidden),
        "mean": _distance(encode(path, text(), "mean"), hidden.mean(0)),
        "first": _distance(encode(path, text(), "cls"), hidden[0]),
    }
    if "scores" in theirs and RECIPES[name].warns == ():  # heads that llama.cpp has not are warned of
        found["scores"] = _distance(encode(path, text(), "rank"), theirs["scores"])
    return found


def _distance(ours: np.ndarray, theirs: np.ndarray) -> float:
    assert ours.shape == theirs.shape
    return float(np.linalg.norm(ours - theirs) / np.linalg.norm(theirs))
