"""The judge of logits: transformers on the checkpoint itself, in float32 and in bfloat16, in the memory of one copy.

Weights are loaded in the type that the checkpoint stores. To compute in another one, all are cast where there is room,
else one layer at a time, while it runs. Never with `trust_remote_code`.
"""

import contextlib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ggufkit.checkpoints import Checkpoint
from ggufkit.errors import CheckpointError, MissingDependencyError, VerificationError
from ggufkit.evaluation.plain_copy import loadable
from ggufkit.llamacpp.cpu import available_memory

PRECISIONS = ("float32", "bfloat16")
_TORCH_NAMES = {"F32": "float32", "F64": "float32", "F16": "float16", "BF16": "bfloat16"}
_ACTIVATIONS = 1 << 29  # bytes: Python, torch and what a forward pass holds on to
Logits = list[NDArray[np.float32]]


def memory_needed(checkpoint: Checkpoint) -> int:
    """Estimate the bytes that the reference takes at least: the weights once, and the largest tensor as float32."""
    largest = max((math.prod(tensor.shape) for tensor in checkpoint.tensors.values()), default=0)
    return sum(tensor.size for tensor in checkpoint.tensors.values()) + 4 * largest + _ACTIVATIONS


def reference_logits(
    checkpoint: Checkpoint,
    prompts: Sequence[Sequence[int]],
    *,
    adjust: Callable[[Any], None] | None = None,
    hidden: bool = False,
    start: int | None = None,
) -> dict[str, Logits]:
    """Compute the logits after every token of every prompt in both precisions: float32 [n_tokens, n_vocab] each.

    With `hidden`, compute an encoder's last hidden states instead: float32 [n_tokens, n_embd]. With `start`, those
    logits that a decoder gives for this token and all but the last of the prompt, which the encoder was given.
    `adjust` may change the loaded model, such as by an adapter.

    Raises:
        MissingDependencyError: torch or transformers is not installed.
        CheckpointError: transformers does not know or take this checkpoint, or memory does not suffice.
        VerificationError: the prompts hold tokens that the checkpoint does not have.
    """
    try:
        import torch
        import transformers
    except ImportError as error:
        raise MissingDependencyError(f"{error.name} is not installed", hint="pip install 'ggufkit[hf]'") from None
    needed, free = memory_needed(checkpoint), available_memory()
    if needed > free:
        raise CheckpointError(
            f"transformers needs {needed / 1e9:.1f} GB of memory for this checkpoint, {free / 1e9:.1f} GB are free"
        )
    # What is added to weights of 16 bits must not be rounded to 16 bits: llama.cpp adds it while computing.
    stored = "float32" if adjust else _stored_type(checkpoint)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    with loadable(checkpoint) as folder:
        model = _load(transformers, checkpoint, folder, getattr(torch, stored), hidden=hidden)

    def run(prompt: Sequence[int]) -> NDArray[np.float32]:
        tokens = {"input_ids": torch.tensor([list(prompt)])}
        if start is not None:
            tokens["decoder_input_ids"] = torch.tensor([[start, *prompt[:-1]]])
        try:
            output = model(**tokens) if hidden else model(**tokens, use_cache=False)
        except Exception as error:  # transformers and torch raise whatever went wrong inside them
            reason = (str(error) or type(error).__name__).strip().splitlines()[0]
            raise CheckpointError(f"transformers cannot run {checkpoint.folder}: {reason[:200]}") from error
        result: NDArray[np.float32] = (output.last_hidden_state if hidden else output.logits)[0].float().numpy()
        return result

    _check_rows(model, prompts)
    if adjust:
        adjust(model)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    whole = 2 * 4 * parameters < available_memory()
    found: dict[str, Logits] = {}
    with torch.inference_mode():
        # The stored type first: casting all weights to float32 loses nothing, the way back may.
        for precision in sorted(PRECISIONS, key=lambda name: (name != stored, name != "float32")):
            cast = _all_cast if whole else _cast_layer_by_layer
            with cast(model, getattr(torch, stored), getattr(torch, precision)):
                found[precision] = [run(prompt) for prompt in prompts]
    return found


@contextlib.contextmanager
def loaded_original(checkpoint: Checkpoint) -> Iterator[Any]:
    """Load the checkpoint's own model (a `torch.nn.Module`) with weights in float32, to be changed as one likes.

    Raises:
        MissingDependencyError: torch or transformers is not installed.
        CheckpointError: transformers does not know or take this checkpoint, or memory does not suffice.
    """
    try:
        import torch
        import transformers
    except ImportError as error:
        raise MissingDependencyError(f"{error.name} is not installed", hint="pip install 'ggufkit[hf]'") from None
    needed = 4 * sum(math.prod(tensor.shape) for tensor in checkpoint.tensors.values()) + _ACTIVATIONS
    if needed > (free := available_memory()):
        raise CheckpointError(
            f"{checkpoint.folder} takes {needed / 1e9:.1f} GB of memory in float32, {free / 1e9:.1f} GB are free"
        )
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    with loadable(checkpoint) as folder:
        yield _load(transformers, checkpoint, folder, torch.float32)


def _stored_type(checkpoint: Checkpoint) -> str:
    """Name the torch type that most bytes of the checkpoint have."""
    sizes: dict[str, int] = {}
    for tensor in checkpoint.tensors.values():
        sizes[tensor.dtype] = sizes.get(tensor.dtype, 0) + tensor.size
    return _TORCH_NAMES.get(max(sizes, key=lambda dtype: sizes[dtype], default="F32"), "float32")


def _load(transformers: Any, checkpoint: Checkpoint, folder: Path, dtype: Any, *, hidden: bool = False) -> Any:
    name = checkpoint.config.architecture
    classes = [getattr(transformers, name, None), transformers.AutoModelForCausalLM]
    if hidden:  # the encoder inside of a model with a head
        classes = [getattr(transformers, name, None)] if name.endswith("EncoderModel") else [transformers.AutoModel]
        return _loaded(classes, checkpoint, folder, dtype)
    if not name.endswith(("ForCausalLM", "LMHeadModel", "ForConditionalGeneration")):
        classes = classes[1:]
    return _loaded(classes, checkpoint, folder, dtype)


def _loaded(classes: Sequence[Any], checkpoint: Checkpoint, folder: Path, dtype: Any) -> Any:
    name = checkpoint.config.architecture
    problem: BaseException | None = None
    for loader in filter(None, classes):
        try:
            model, told = loader.from_pretrained(
                str(folder),
                dtype=dtype,
                attn_implementation="eager",
                trust_remote_code=False,
                local_files_only=True,
                output_loading_info=True,
            )
            _refuse_random_weights(told)
            return model.eval()
        except Exception as error:  # noqa: BLE001 - transformers raises whatever went wrong inside it
            problem = problem or error
    reason = (str(problem) or type(problem).__name__).strip().splitlines()[0]
    raise CheckpointError(f"transformers cannot load {name} from {checkpoint.folder}: {reason[:200]}")


def _check_rows(model: Any, prompts: Sequence[Sequence[int]]) -> None:
    """Raise VerificationError if prompts hold tokens, which the file has, that the checkpoint has no embedding of."""
    embedding = getattr(model.get_input_embeddings(), "weight", None)
    largest = max((token for prompt in prompts for token in prompt), default=0)
    if embedding is not None and largest >= len(embedding):
        raise VerificationError(f"the file has a token {largest}, the checkpoint embeds only {len(embedding)}")


def _refuse_random_weights(told: Mapping[str, Iterable[str]]) -> None:
    """Raise CheckpointError if transformers found no tensor for some of its weights: it makes those up at random."""
    # A pooler is made whether or not the checkpoint has one, and comes after all that is compared.
    missing = sorted(name for name in told.get("missing_keys", ()) if not name.split(".")[0].endswith("pooler"))
    if missing:
        made_up = f"would make up {len(missing)} weights of its own ({missing[0]}, …)"
        left = sorted(told.get("unexpected_keys", ()))
        if not left:
            raise CheckpointError(f"the checkpoint lacks what transformers looks for, which {made_up}")
        raise CheckpointError(f"transformers does not load {len(left)} tensors of it ({left[0]}, …), and {made_up}")


@contextlib.contextmanager
def _all_cast(model: Any, stored: Any, wanted: Any) -> Iterator[None]:
    """Cast the weights, and put them back: not the buffers, of which some must stay as they are."""
    kept = _cast(model.parameters(), stored, wanted)
    try:
        yield
    finally:
        _restore(kept)


@contextlib.contextmanager
def _cast_layer_by_layer(model: Any, stored: Any, wanted: Any) -> Iterator[None]:
    """Cast the weights of a layer when it begins to run, and let go of the copies when it has."""
    kept: dict[int, list[tuple[Any, Any]]] = {}

    def before(module: Any, _: Any) -> None:
        kept[id(module)] = _cast(module.parameters(), stored, wanted)

    def after(module: Any, _: Any, __: Any) -> None:
        _restore(kept.pop(id(module), []))

    handles = []
    for module in _units(model):
        handles += [module.register_forward_pre_hook(before), module.register_forward_hook(after)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
        for casts in kept.values():
            _restore(casts)


def _units(model: Any) -> list[Any]:
    """List the layers, and the modules outside of them that hold weights themselves (embeddings, norms, head)."""
    import torch

    layers: list[tuple[str, Any]] = []
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.ModuleList) and not any(name.startswith(outer) for outer, _ in layers):
            layers += [(f"{name}.{index}.", layer) for index, layer in enumerate(module)]
    others = [
        module
        for name, module in model.named_modules()
        if any(True for _ in module.parameters(recurse=False))
        and not any(f"{name}.".startswith(prefix) for prefix, _ in layers)
    ]
    return [*(layer for _, layer in layers), *others]


def _cast(parameters: Any, stored: Any, wanted: Any) -> list[tuple[Any, Any]]:
    """Cast what is of the stored type (what transformers keeps in float32 for a reason stays); return the originals."""
    kept = []
    if stored != wanted:
        for parameter in parameters:
            if parameter.dtype == stored:
                kept.append((parameter, parameter.data))
                parameter.data = parameter.data.to(wanted)
    return kept


def _restore(kept: Sequence[tuple[Any, Any]]) -> None:
    for parameter, data in kept:
        parameter.data = data
