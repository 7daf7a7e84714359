"""How much tensors matter, by one backward pass of the original instead of a probe for each of them.

The divergence that a small change dW of a matrix causes is half the second moment of its effect on the log-probability
of tokens that the model itself would draw (the Fisher information is the Hessian of KL divergence; Martens,
arXiv 1412.1193). For a matrix that turns x into W x, with g the gradient at its output, the effect at one token is
g . dW x. So one forward and one backward pass give the cost of every matrix, in nats, however many there are. Effects
of one change at several tokens are taken to be independent, which makes values of attention look cheaper than they are.

A tensor of the GGUF file belongs to the module that has the same rows, in whatever order: names need not be known.
"""

import hashlib
import tempfile
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ggufkit.allocation.choices import Choices
from ggufkit.allocation.measuring import Setting
from ggufkit.allocation.model import Model
from ggufkit.allocation.options import How, OptimizeOptions
from ggufkit.allocation.probes import reference_of
from ggufkit.allocation.sensitivity import Sensitivity
from ggufkit.allocation.weights import Floats, from_float32, importance_of, rows_of, through
from ggufkit.checkpoints import open_checkpoint
from ggufkit.errors import UsageError
from ggufkit.evaluation.likelihood.texts import Chunks
from ggufkit.evaluation.reference import loaded_original
from ggufkit.gguf_file.reader import GgufHeader
from ggufkit.gguf_file.tensor_types import TensorType
from ggufkit.llamacpp.ggml import Ggml
from ggufkit.progress import Progress, silent
from ggufkit.quantization.direct import library
from ggufkit.quantization.importance import load_importance

_SEED = 1  # of the tokens that are drawn
_ROWS_AT_ONCE = 4096


def seen_by_fisher(model: Model, options: OptimizeOptions) -> Collection[str]:
    """Name the tensors that will need no probe, as far as that is known before: matrices, where it was asked for."""
    if options.sensitivity is not How.FISHER:
        return ()
    tensors = (tensor for header in model.headers for tensor in header.tensors)
    return {tensor.name for tensor in tensors if len(tensor.shape) == 2}


def fisher(
    model: Model, options: OptimizeOptions, setting: Setting, folder: Path, progress: Progress
) -> Mapping[str, Sensitivity]:
    """Let the original tell what the tensors of a model cost, where it was asked for; else nothing.

    Raises:
        UsageError: there is no original.
        As `fisher_sensitivities`.
    """
    if options.sensitivity is not How.FISHER:
        return {}
    if options.original is None:
        raise UsageError(
            "a backward pass needs the checkpoint that the model was converted from", hint="give the folder as SRC"
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
            progress=progress,
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
    progress: Progress = silent,
) -> Mapping[str, Sensitivity]:
    """Compute what each matrix of a GGUF file costs (nats per token) in its reference type, by its checkpoint.

    Tensors that are no matrix of one module (stacked experts, fused or split ones) are left out. `scratch` is a folder
    for the changes of weights, two bytes for each.

    Raises:
        MissingDependencyError: torch or transformers is not installed.
        CheckpointError: transformers cannot load the checkpoint, or memory does not suffice.
    """
    movable = {choice.name: reference_of(choice) for choice in choices if len(choice.types) > 1}
    with open_checkpoint(folder) as checkpoint, loaded_original(checkpoint) as model:
        found = _modules_by_tensor(model, headers, movable.keys(), ggml)
        changes: dict[int, tuple[str, NDArray[np.float16]]] = {}
        by_name = {tensor.name: tensor for header in headers for tensor in header.tensors}
        for number, (name, modules) in enumerate(found.items()):
            progress("Rounding weights", number, len(found), "steps")
            weight = _weight_of(modules[0])
            change = np.lib.format.open_memmap(
                scratch / f"change-{number}.npy", mode="w+", dtype=np.float16, shape=weight.shape
            )
            scale = importance_of(importance, by_name[name], 0)
            for start in range(0, len(weight), _ROWS_AT_ONCE):
                rows = weight[start : start + _ROWS_AT_ONCE]
                stored = through(ggml, rows.reshape(-1), movable[name], weight.shape[1], scale)
                change[start : start + _ROWS_AT_ONCE] = stored.reshape(rows.shape) - rows
            changes |= {id(module): (name, change) for module in modules}
        squares = _effects(model, [m for each in found.values() for m in each], changes, chunks, progress)
    scored = len(chunks.tokens) * chunks.scored
    return {name: Sensitivity(squares[name] / scored / 2, movable[name]) for name in found}


# ---- which module is which tensor


def _modules_by_tensor(
    model: Any, headers: Sequence[GgufHeader], names: Any, ggml: Ggml
) -> Mapping[str, Sequence[Any]]:
    """Find the linear layers and embeddings that hold the rows of each tensor; a tied tensor has both."""
    import torch

    modules = [each for each in model.modules() if isinstance(each, torch.nn.Linear | torch.nn.Embedding)]
    shapes = {_weight_of(module).shape for module in modules}
    keys: dict[bytes, list[str]] = {}
    kinds = set()
    for header in headers:
        with header.path.open("rb") as file:
            for tensor in header.tensors:
                columns, rows, experts = rows_of(tensor)
                if tensor.name not in names or experts > 1 or (rows, columns) not in shapes:
                    continue
                kinds.add(tensor.type)
                content = np.empty(tensor.size, np.uint8)
                file.seek(tensor.offset)
                if file.readinto(content.data) == tensor.size:
                    keys.setdefault(_key(content.reshape(rows, -1), tensor.type), []).append(tensor.name)
    found: dict[str, list[Any]] = {}
    for module in modules:
        weight = _weight_of(module)
        for kind in kinds:
            cast = from_float32(ggml, weight.reshape(-1), kind).reshape(len(weight), -1)
            for name in keys.get(_key(cast, kind), ()):
                found.setdefault(name, []).append(module)
    return {name: found[name] for name in sorted(found)}


def _key(rows: NDArray[np.uint8], kind: TensorType) -> bytes:
    """Name a set of rows: the same for any order of them."""
    total = sum(int.from_bytes(hashlib.blake2b(row.tobytes(), digest_size=16).digest(), "little") for row in rows)
    return f"{rows.shape} {kind.name} {total}".encode()


def _weight_of(module: Any) -> Floats:
    weight: Floats = module.weight.detach().numpy()
    return weight


# ---- the pass


def _effects(
    model: Any,
    modules: Sequence[Any],
    changes: Mapping[int, tuple[str, NDArray[np.float16]]],
    chunks: Chunks,
    progress: Progress,
) -> Mapping[str, float]:
    """Sum, over tokens, the squared effect of each tensor's change on the log-probability of drawn tokens."""
    import torch

    squares = dict.fromkeys((name for name, _ in changes.values()), 0.0)
    effects: dict[str, Any] = {}  # of the chunk at work, for each token

    def add(name: str, effect: Any) -> None:
        if effect.numel() != chunks.length:  # not all tokens come here, as with experts
            squares[name] += float(effect.double().square().sum())
        else:
            effects[name] = effects.get(name, 0.0) + effect.reshape(-1)

    def watch(module: Any, inputs: tuple[Any, ...], output: Any) -> None:
        if not output.requires_grad:
            return
        name, stored = changes[id(module)]

        def arrived(gradient: Any) -> None:
            change = torch.from_numpy(np.asarray(stored, np.float32))
            if isinstance(module, torch.nn.Embedding):
                rows = change[inputs[0]] * _scale(module, inputs[0], output)
            else:
                rows = inputs[0].detach().float() @ change.T
            add(name, (rows * gradient.float()).sum(-1))

        output.register_hook(arrived)

    model.requires_grad_(requires_grad=False)
    embedding = model.get_input_embeddings()
    # The gradient begins at what the embedding gives; weights need none.
    handles = [embedding.register_forward_hook(lambda _module, _inputs, output: output.requires_grad_())]
    handles += [module.register_forward_hook(watch) for module in modules]
    draw = torch.Generator().manual_seed(_SEED)
    try:
        for number, tokens in enumerate(chunks.tokens):
            progress("Reading backwards", number, len(chunks.tokens), "steps")
            effects.clear()
            logits = model(input_ids=torch.tensor([tokens]), use_cache=False).logits[0]
            said = torch.log_softmax(logits[-1 - chunks.scored : -1].float(), -1)
            drawn = torch.multinomial(said.detach().exp(), 1, generator=draw)
            said.gather(1, drawn).sum().backward()
            for name, effect in effects.items():
                squares[name] += float(effect.double().square().sum())
    finally:
        for handle in handles:
            handle.remove()
    return squares


def _scale(embedding: Any, tokens: Any, output: Any) -> float:
    """Return what an embedding multiplies its rows with, as those of Gemma do."""
    plain = embedding.weight.detach()[tokens].norm()
    return float(output.detach().norm() / plain) if plain else 1.0
