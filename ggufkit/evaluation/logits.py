"""Logits: the GGUF file run by llama.cpp against the checkpoint run by transformers, on several prompts and lengths.

llama.cpp runs first, in a process of its own, so the model is never in memory twice. Transformers computes in float32,
which is the truth, and in bfloat16, in which such models are usually run: how far that is off is the yardstick.
"""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from ggufkit.checkpoints import Checkpoint
from ggufkit.errors import CheckpointError, GgufkitError, MissingDependencyError, VerificationError
from ggufkit.evaluation import adapters, engine_child
from ggufkit.evaluation.distances import Distance, distance
from ggufkit.evaluation.engine_child import Output
from ggufkit.evaluation.error_bounds import BOUNDS
from ggufkit.evaluation.prompts import make_prompts
from ggufkit.evaluation.reference import memory_needed, reference_logits
from ggufkit.evaluation.results import Check, Grade
from ggufkit.gguf_file.reader import GgufHeader
from ggufkit.gguf_file.tensor_types import TensorType
from ggufkit.progress import Progress

NAME = "logits"
DEFAULT_TOKENS = 160
# Architectures that llama.cpp runs as encoders without a key that says so (src/models: causal_attn = false, no head).
_ENCODERS = {"t5encoder", "gemma-embedding"}

# NMSE that arithmetic alone may cause, by the coarsest type of a matrix, and how many times the NMSE of transformers'
# own bfloat16, in which chaos shows (routers that choose other experts, say): ggml multiplies 16-bit and 8-bit matrices
# by activations that it rounds to the same type. Below 8 bits the weights differ, and only nonsense is refused.
_LIMITS = {
    TensorType.F32: (2.5e-5, 0.0),
    TensorType.F16: (1e-4, 0.5),
    TensorType.BF16: (1e-3, 2.0),
    TensorType.Q8_0: (2e-2, 4.0),
}
_LARGEST_LIMIT = 0.1  # of those above
_LIMIT_FINE, _LIMIT_COARSE = 0.5, 1.0
_FINE = 0.1  # typical error of a tensor of Q4 and finer
# Mean divergence in nats, and what to call it.
GRADES = (
    (1e-4, "indistinguishable"),
    (1e-2, "very close"),
    (5e-2, "close"),
    (2e-1, "noticeably different"),
    (float("inf"), "far"),
)


def check_logits(
    model: Path,
    checkpoint: Checkpoint,
    parts: Sequence[GgufHeader],
    *,
    tokens: int = DEFAULT_TOKENS,
    threads: int | None = None,
    lora: tuple[Path, Path] | None = None,
    progress: Progress,
) -> Check:
    """Compare the logits after every token of the prompts, of which the longest has up to `tokens` tokens.

    `lora` is a GGUF adapter for llama.cpp, and the PEFT folder for transformers.
    """
    prompts, output = make_prompts(checkpoint, parts[0], tokens), output_of(parts[0])
    start = checkpoint.config.get("decoder_start_token_id", 0)
    try:
        progress("Computing logits with llama.cpp", 0, 0, "steps")
        adapter = lora[0] if lora else None
        found = engine_child.logits(model, prompts, adapter=adapter, threads=threads, output=output, start=start)
    except MissingDependencyError as error:
        return Check(NAME, Grade.SKIPPED, str(error))
    except GgufkitError as error:
        return Check(NAME, Grade.FAILED, f"llama.cpp: {error}")
    try:
        needed = f"{memory_needed(checkpoint) / 1e9:.1f} GB"
        progress(f"Computing logits with transformers ({needed} of memory)", 0, 0, "steps")
        adjust = adapters.adding(lora[1]) if lora else None
        wanted = reference_logits(
            checkpoint,
            prompts,
            adjust=adjust,
            hidden=output is Output.HIDDEN,
            start=start if output is Output.DECODED else None,
        )
    except (MissingDependencyError, CheckpointError) as error:
        return Check(NAME, Grade.SKIPPED, f"{error}")
    except VerificationError as error:
        return Check(NAME, Grade.FAILED, f"{error}")
    ours = distance(wanted["float32"], found)
    yardstick = distance(wanted["float32"], wanted["bfloat16"])
    in_bfloat16 = distance(wanted["bfloat16"], found)
    coarsest = coarsest_type(parts)
    limit = limit_for(coarsest, yardstick.nmse)
    figures = {
        "prompts": [len(prompt) for prompt in prompts],
        "against_float32": asdict(ours),
        "against_bfloat16": asdict(in_bfloat16),
        "bfloat16_against_float32": asdict(yardstick),
        "coarsest_type": coarsest.name,
        "nmse_limit": limit,
        "memory_needed": memory_needed(checkpoint),
    }
    name = next(name for most, name in GRADES if ours.mean_kl <= most)
    summary = f"{name}: {_words(ours)}; limit {limit:.1e}"
    if output is Output.HIDDEN:
        summary = f"hidden states of an encoder: NMSE {ours.nmse:.1e}; limit {limit:.1e}"
        figures["output"] = str(output)
    details = [
        f"prompts of {', '.join(str(len(prompt)) for prompt in prompts)} tokens, matrices down to {coarsest.name}",
        f"against transformers in float32: {_words(ours)}",
        f"against transformers in bfloat16: {_words(in_bfloat16)}",
        f"for comparison, transformers' bfloat16 against its float32: {_words(yardstick)}",
    ]
    if checkpoint.quantization and checkpoint.quantization.weights:
        details.append(f"transformers ran the weights as dequantized here ({checkpoint.quantization.scheme})")
    if not ours.nmse <= limit:
        return Check(NAME, Grade.FAILED, summary, tuple(details), figures)
    return Check(NAME, Grade.CLOSE, summary, tuple(details), figures)


def output_of(header: GgufHeader) -> Output:
    """Tell what a file's model gives: most give logits, encoders hidden states, pairs a decoder's logits."""
    architecture = header.metadata.get("general.architecture")
    if architecture == "t5":
        return Output.DECODED
    is_encoder = architecture in _ENCODERS or header.metadata.get(f"{architecture}.attention.causal") is False
    return Output.HIDDEN if is_encoder else Output.LOGITS


def coarsest_type(parts: Sequence[GgufHeader]) -> TensorType:
    """Find the type with the fewest bits among the matrices."""
    kinds = {tensor.type for part in parts for tensor in part.tensors if len(tensor.shape) > 1}
    order = [TensorType.F32, TensorType.F16, TensorType.BF16, TensorType.Q8_0]
    return max(
        kinds or {TensorType.F32},
        key=lambda kind: order.index(kind) if kind in order else len(order) + BOUNDS[kind].typical,
    )


def limit_for(kind: TensorType, yardstick: float) -> float:
    """The NMSE above which a file with such matrices fails; `yardstick` is that of transformers' own bfloat16."""
    if kind in _LIMITS:
        least, times = _LIMITS[kind]
        return max(least, min(_LARGEST_LIMIT, times * yardstick)) if times and yardstick > 0 else least
    return _LIMIT_FINE if kind in BOUNDS and BOUNDS[kind].typical <= _FINE else _LIMIT_COARSE


def _words(it: Distance) -> str:
    return f"NMSE {it.nmse:.1e}, same top-1 {it.top1:.1%}, KL {it.mean_kl:.1e} (largest {it.max_kl:.1e})"
