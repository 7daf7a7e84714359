"""How much tensors matter, by reading the original backwards instead of a probe for each of them.

The divergence that a small change dW of a matrix causes is half the mean square of its effect on the logits, in the
metric of the Fisher information, which is the Hessian of KL divergence (Martens, arXiv 1412.1193). For a matrix that
turns x into W x, with g a gradient at its output, the effect at one token is g . dW x. So a forward pass and some
backward passes give the cost of every matrix, in nats, however many there are. Effects of one change at several tokens
are taken to be independent, which makes values of attention look cheaper than they are.
"""

import tempfile
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ggufkit.allocation.backwards import modules_by_tensor, read_backwards, weight_of
from ggufkit.allocation.choices import Choices
from ggufkit.allocation.equalization.factors import Equalization
from ggufkit.allocation.measuring import Setting
from ggufkit.allocation.model import Model
from ggufkit.allocation.options import How, OptimizeOptions
from ggufkit.allocation.probes import reference_of
from ggufkit.allocation.sensitivity import Sensitivity
from ggufkit.allocation.weights import Floats, importance_of, through
from ggufkit.checkpoints import open_checkpoint
from ggufkit.errors import CheckpointError, UsageError
from ggufkit.evaluation.likelihood.texts import Chunks
from ggufkit.evaluation.reference import loaded_original
from ggufkit.gguf_file.reader import GgufHeader
from ggufkit.llamacpp.ggml import Ggml
from ggufkit.progress import Progress, silent
from ggufkit.quantization.direct import library
from ggufkit.quantization.importance import load_importance

_ROWS_AT_ONCE = 4096
_DRAWS = 4


def seen_by_fisher(model: Model, options: OptimizeOptions) -> Collection[str]:
    """Name the tensors that will need no probe, as far as that is known before: matrices, where it was asked for."""
    if options.sensitivity is not How.FISHER:
        return ()
    tensors = (tensor for header in model.headers for tensor in header.tensors)
    return {tensor.name for tensor in tensors if len(tensor.shape) == 2}


def fisher(
    model: Model,
    options: OptimizeOptions,
    setting: Setting,
    folder: Path,
    progress: Progress,
    scaled: Equalization | None = None,
) -> Mapping[str, Sensitivity]:
    """Let the original tell what the tensors of a model cost, where it was asked for; else nothing.

    `model` is that of the checkpoint; `scaled` and `setting` are of the equalized one, if that is what will be rounded.

    Raises:
        UsageError: there is no original.
        As `fisher_sensitivities`.
    """
    if options.sensitivity is not How.FISHER:
        return {}
    if options.original is None:
        raise UsageError(
            "a backward pass needs the checkpoint that the model was converted from",
            hint="give the folder as SRC, or by --checkpoint",
        )
    matrix = load_importance(setting.importance) if setting.importance else None
    with tempfile.TemporaryDirectory(dir=folder, prefix="fisher-") as scratch:
        return fisher_sensitivities(
            options.original,
            model.headers,
            model.choices,
            matrix.only(setting.include_weights, setting.exclude_weights).values if matrix else {},
            setting.chunks,
            library(),
            Path(scratch),
            threads=setting.running.threads,
            progress=progress,
            scaled=scaled,
        )


def fisher_sensitivities(
    folder: Path,
    headers: Sequence[GgufHeader],
    choices: Sequence[Choices],
    importance: Mapping[str, Floats],
    chunks: Chunks,
    ggml: Ggml,
    scratch: Path,
    *,
    threads: int | None = None,
    progress: Progress = silent,
    scaled: Equalization | None = None,
) -> Mapping[str, Sensitivity]:
    """Compute what each matrix of a GGUF file costs (nats per token) in its reference type, by its checkpoint.

    Tensors that are no matrix of one module (stacked experts, fused or split ones) are left out. `scratch` is a folder
    for the changes of weights, two bytes for each. `scaled` says what is scaled before weights are rounded.

    Raises:
        MissingDependencyError: torch or transformers is not installed.
        CheckpointError: transformers cannot load the checkpoint or read by it, it is another model's, or memory does
            not suffice.
    """
    movable = {choice.name: reference_of(choice) for choice in choices if len(choice.types) > 1}
    with open_checkpoint(folder) as checkpoint, loaded_original(checkpoint) as model:
        found = modules_by_tensor(model, headers, movable.keys(), ggml)
        if movable and not found:
            raise CheckpointError(f"{folder} holds none of this model's matrices", hint="--sensitivity probes")
        changes: dict[int, tuple[str, NDArray[np.float16]]] = {}
        by_name = {tensor.name: tensor for header in headers for tensor in header.tensors}
        for number, (name, modules) in enumerate(found.items()):
            progress("Rounding weights", number, len(found), "steps")
            weight = weight_of(modules[0])
            change = np.lib.format.open_memmap(
                scratch / f"change-{number}.npy", mode="w+", dtype=np.float16, shape=weight.shape
            )
            scale = importance_of(importance, by_name[name], 0)
            for start in range(0, len(weight), _ROWS_AT_ONCE):
                rows = weight[start : start + _ROWS_AT_ONCE]
                factors = np.ones((1, 1), np.float32)
                if scaled is not None:
                    factors = scaled.of_rows(by_name[name], start, start + len(rows))
                values = rows * factors
                stored = through(ggml, values.reshape(-1), movable[name], weight.shape[1], scale)
                change[start : start + _ROWS_AT_ONCE] = (stored.reshape(rows.shape) - values) / factors
            changes |= {id(module): (name, change) for module in modules}
        squares = _effects(model, [m for each in found.values() for m in each], changes, chunks, threads, progress)
    scored = len(chunks.tokens) * chunks.scored
    return {name: Sensitivity(squares[name] / _DRAWS / scored / 2, movable[name]) for name in found}


# ---- the pass


def _effects(
    model: Any,
    modules: Sequence[Any],
    changes: Mapping[int, tuple[str, NDArray[np.float16]]],
    chunks: Chunks,
    threads: int | None,
    progress: Progress,
) -> Mapping[str, float]:
    """Sum, over tokens and draws, the squared effect of each tensor's change on what the model says."""
    import torch

    squares = dict.fromkeys((name for name, _ in changes.values()), 0.0)
    effects: dict[str, Any] = {}  # of the chunk at work, for each token

    def arrived(module: Any, given: Any, output: Any, gradient: Any) -> None:
        name, stored = changes[id(module)]
        change = torch.from_numpy(np.asarray(stored, np.float32))
        if isinstance(module, torch.nn.Embedding):
            rows = change[given] * _scale(module, given, output)
        else:
            rows = given.detach().float() @ change.T
        effect = (rows * gradient.float()).sum(-1)
        if effect.numel() != chunks.length:  # not all tokens come here, as with experts
            squares[name] += float(effect.double().square().sum())
        else:
            effects[name] = effects.get(name, 0.0) + effect.reshape(-1)

    stage, count = "Reading backwards", len(chunks.tokens)
    progress(stage, 0, count, "steps")
    for number in read_backwards(model, modules, chunks.tokens, chunks.scored, _DRAWS, arrived, threads=threads):
        for name, effect in effects.items():
            squares[name] += float(effect.double().square().sum())
        effects.clear()
        progress(stage, number + 1, count, "steps")
    return squares


def _scale(embedding: Any, tokens: Any, output: Any) -> float:
    """Return what an embedding multiplies its rows with, as those of Gemma do."""
    plain = embedding.weight.detach()[tokens].norm()
    return float(output.detach().norm() / plain) if plain else 1.0
