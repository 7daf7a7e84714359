"""Reading a checkpoint backwards: what its matrices' outputs do to the probabilities that it gives in the end.

A tensor of the GGUF file belongs to the module that has the same rows, in whatever order: names need not be known.
"""

import hashlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ggufkit.allocation.weights import Floats, from_float32, rows_of
from ggufkit.errors import CheckpointError
from ggufkit.gguf_file.reader import GgufHeader, TensorInfo
from ggufkit.gguf_file.tensor_types import TensorType
from ggufkit.llamacpp.ggml import Ggml

Arrived = Callable[[Any, Any, Any, Any], None]
"""Gets a module, what went into it, what came out, and the gradient there, all of them of torch."""

_SEED = 1  # of what is drawn


def modules_by_tensor(
    model: Any, headers: Sequence[GgufHeader], names: Collection[str], ggml: Ggml
) -> Mapping[str, Sequence[Any]]:
    """Find the linear layers and embeddings that hold the rows of each tensor; a tied tensor has both."""
    import torch

    modules = [each for each in model.modules() if isinstance(each, torch.nn.Linear | torch.nn.Embedding)]
    shapes = {weight_of(module).shape for module in modules}
    keys: dict[bytes, list[str]] = {}
    kinds = set()
    for header in headers:
        for tensor in header.tensors:
            columns, rows, experts = rows_of(tensor)
            if tensor.name not in names or experts > 1 or (rows, columns) not in shapes:
                continue
            kinds.add(tensor.type)
            content = stored_rows(header, tensor)
            if content is not None:
                keys.setdefault(_key(content, tensor.type), []).append(tensor.name)
    found: dict[str, list[Any]] = {}
    for module in modules:
        weight = weight_of(module)
        for kind in kinds:
            for name in keys.get(_key(_cast(ggml, weight, kind), kind), ()):
                found.setdefault(name, []).append(module)
    return {name: found[name] for name in sorted(found)}


def order_of_rows(module: Any, header: GgufHeader, tensor: TensorInfo, ggml: Ggml) -> NDArray[np.int64] | None:
    """Say which row of a module each row of its tensor is, int64 [n_out]; None where it has others."""
    content = stored_rows(header, tensor)
    places: dict[bytes, list[int]] = {}
    for place, row in enumerate(_cast(ggml, weight_of(module), tensor.type)):
        places.setdefault(row.tobytes(), []).append(place)
    try:
        return None if content is None else np.array([places[row.tobytes()].pop(0) for row in content], np.int64)
    except (KeyError, IndexError):
        return None


def weight_of(module: Any) -> Floats:
    """Return the weight of a module, float32 [n_out, n_in]."""
    weight: Floats = module.weight.detach().numpy()
    return weight


def stored_rows(header: GgufHeader, tensor: TensorInfo) -> NDArray[np.uint8] | None:
    """Read the rows of a matrix as they are stored, uint8 [n_out, bytes]; None where the file has become shorter."""
    content = np.empty(tensor.size, np.uint8)
    with header.path.open("rb") as file:
        file.seek(tensor.offset)
        if file.readinto(content.data) != tensor.size:
            return None
    return content.reshape(rows_of(tensor)[1], -1)


def read_backwards(
    model: Any,
    modules: Sequence[Any],
    chunks: Sequence[Sequence[int]],
    scored: int,
    draws: int,
    arrived: Arrived,
    *,
    threads: int | None = None,
) -> Iterator[int]:
    """Yield the number of each chunk when gradients have arrived, as often as something is drawn.

    They are those of what is said behind the last `scored` tokens of a chunk but one: of logits z whose probabilities
    are p, the gradient of z . (diag(sqrt p) - p sqrt(p)^T) e, where e is drawn from normal distributions. Its second
    moment is the Fisher information diag(p) - p p^T, as that of the log-probability of a token that is drawn; but no
    single rare token decides it.

    Raises:
        CheckpointError: the checkpoint cannot read these tokens.
    """
    import torch

    def watch(module: Any, inputs: tuple[Any, ...], output: Any) -> None:
        if output.requires_grad:
            given, plain = inputs[0].detach(), output.detach()  # a hook that held the output would never let go of it
            output.register_hook(lambda gradient: arrived(module, given, plain, gradient))

    model.requires_grad_(requires_grad=False)
    embedding = model.get_input_embeddings()
    # The gradient begins at what the embedding gives; weights need none.
    handles = [embedding.register_forward_hook(lambda _module, _inputs, output: output.requires_grad_())]
    handles += [module.register_forward_hook(watch) for module in modules]
    draw = torch.Generator().manual_seed(_SEED)
    usual = torch.get_num_threads()
    torch.set_num_threads(threads or usual)
    try:
        for number, tokens in enumerate(chunks):
            logits = model(input_ids=torch.tensor([list(tokens)]), use_cache=False).logits[0]
            said = logits[-1 - scored : -1].float()
            odds = torch.softmax(said.detach(), -1)
            for left in reversed(range(draws)):
                drawn = odds.sqrt() * torch.randn(odds.shape, generator=draw)
                (said * (drawn - odds * drawn.sum(-1, keepdim=True))).sum().backward(retain_graph=left > 0)
                yield number
    except (AttributeError, IndexError, RuntimeError, TypeError, ValueError) as error:  # as torch and models put it
        raise CheckpointError(f"the checkpoint cannot be read backwards: {error}") from error
    finally:
        torch.set_num_threads(usual)
        for handle in handles:
            handle.remove()


def _cast(ggml: Ggml, weight: Floats, kind: TensorType) -> NDArray[np.uint8]:
    rows: NDArray[np.uint8] = from_float32(ggml, weight.reshape(-1), kind).reshape(len(weight), -1)
    return rows


def _key(rows: NDArray[np.uint8], kind: TensorType) -> bytes:
    """Name a set of rows: the same for any order of them."""
    total = sum(int.from_bytes(hashlib.blake2b(row.tobytes(), digest_size=16).digest(), "little") for row in rows)
    return f"{rows.shape} {kind.name} {total}".encode()
