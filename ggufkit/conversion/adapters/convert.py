"""A PEFT adapter to a GGUF adapter, by the rules that convert its base: what moves rows of a weight moves rows of B."""

import math
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGMLQuantizationType, GGUFValueType

from ggufkit.architectures import names, spec_for
from ggufkit.checkpoints import open_checkpoint
from ggufkit.checkpoints.fingerprint import fingerprint
from ggufkit.conversion.adapters.low_rank import Factors, through
from ggufkit.conversion.adapters.peft import Adapter, LowRank, open_adapter, read
from ggufkit.conversion.description import general_metadata
from ggufkit.conversion.elements import Array, encode
from ggufkit.conversion.plan import ConversionPlan, OutputType, Step, make_plan
from ggufkit.errors import CheckpointError
from ggufkit.files import atomic_output, check_output
from ggufkit.gguf_file.writer import FileLayout, Value, block_size, lay_out
from ggufkit.progress import Progress, silent

BASE_FINGERPRINT = "ggufkit.base.fingerprint"


@dataclass(frozen=True, slots=True)
class AdapterResult:
    """What a conversion of an adapter did; `bytes` is the size of the output."""

    source: Path
    base: Path
    output: Path
    architecture: str
    modules: int
    tensors: int
    ranks: tuple[int, ...]
    alpha: float
    bytes: int
    seconds: float
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class AdapterPlan:
    """The whole GGUF adapter, in memory: adapters are small."""

    architecture: str
    layout: FileLayout
    tensors: Mapping[str, Array]
    alpha: float
    ranks: tuple[int, ...]
    warnings: tuple[str, ...]


def convert_lora(
    source: Path,
    base: Path,
    output: Path,
    *,
    outtype: OutputType = OutputType.F32,
    progress: Progress = silent,
) -> AdapterResult:
    """Convert the PEFT adapter folder `source`, trained on the checkpoint folder `base`, to the GGUF file `output`.

    Of the base only headers, config and tokenizer are read, and samples for the fingerprint that the adapter records.

    Raises:
        CheckpointError: the adapter or its base is malformed, or they do not go together, or the adapter holds what a
            GGUF adapter cannot; the message names the module.
        OutputError, UsageError: the output cannot or must not be written.
    """
    started = time.monotonic()
    check_output(output, inputs=[source, base, *source.iterdir(), *base.iterdir()] if source.is_dir() else [source])
    with open_adapter(source) as adapter:
        plan = plan_adapter(adapter, base, outtype, progress=progress)
        with atomic_output(output, size=plan.layout.size) as temporary:
            write_adapter(plan, temporary)
        return AdapterResult(
            source=source,
            base=base,
            output=output,
            architecture=plan.architecture,
            modules=len(adapter.changes),
            tensors=len(plan.layout.tensors),
            ranks=plan.ranks,
            alpha=plan.alpha,
            bytes=plan.layout.size,
            seconds=time.monotonic() - started,
            warnings=plan.warnings,
        )


def plan_adapter(
    adapter: Adapter, base: Path, outtype: OutputType = OutputType.F32, *, progress: Progress = silent
) -> AdapterPlan:
    """Work out every tensor and key of the GGUF adapter. Raises as `convert_lora`."""
    _refuse_whole(adapter)
    with open_checkpoint(base) as checkpoint:
        plan = make_plan(checkpoint, spec_for(checkpoint.config.architecture), OutputType.F32, description={})
        _refuse_tied_embedding(adapter, plan)
        by_target = _by_target(adapter, plan)
        alpha = _common_alpha(adapter)
        tensors: dict[str, Array] = {}
        for done, (step, changes) in enumerate(by_target):
            progress("Converting the adapter", done, len(by_target), "steps")
            tensors |= _converted(step, changes, plan, alpha)
    norms = {name: read(adapter.whole[source]) for name, source in _norms(adapter, plan)}
    if outtype is OutputType.AUTO:
        dtype = next(iter(adapter.changes.values())).a.dtype
        outtype = OutputType.BF16 if dtype == "BF16" else OutputType.F16
    kinds = [(name, array.shape, _type(array, outtype)) for name, array in tensors.items()]
    kinds += [(name, array.shape, GGMLQuantizationType.F32) for name, array in norms.items()]
    metadata = {
        **general_metadata(adapter.folder, [(name, shape) for name, shape, _ in kinds], kind="adapter"),
        "adapter.type": "lora",
        "adapter.lora.alpha": alpha,
        "general.quantization_version": 2,
        BASE_FINGERPRINT: fingerprint(base),
    }
    if tokens := _invocation_tokens(adapter):
        metadata["adapter.alora.invocation_tokens"] = tokens
    warnings = [f"llama.cpp loads {name} of an adapter, and ignores it" for name in norms]
    ranks = tuple(sorted({change.rank for change in adapter.changes.values()}))
    layout = lay_out(plan.spec.name, metadata, kinds)
    return AdapterPlan(plan.spec.name, layout, {**tensors, **norms}, alpha, ranks, tuple(warnings))


def write_adapter(plan: AdapterPlan, path: Path) -> None:
    """Write the file that was planned."""
    with path.open("r+b" if path.exists() else "w+b") as file:
        file.write(plan.layout.header)
        for tensor in plan.layout.tensors:
            array = np.ascontiguousarray(plan.tensors[tensor.name])
            file.seek(tensor.offset)
            file.write(encode(array.reshape(-1), "F32", tensor.type, array.shape[-1]).tobytes())
        file.truncate(plan.layout.size)


def match_changes(changes: Iterable[str], stored: Iterable[str]) -> dict[str, str]:
    """Find the checkpoint's tensor that each change is meant for: both names, less what wrappers put in front.

    Raises:
        CheckpointError: a change is for a module that the base has not.
    """
    known = {names.stripped(name): name for name in stored}
    found = {}
    for name in changes:
        if names.stripped(name) not in known:
            raise CheckpointError(
                f"the adapter changes {name.removesuffix('.weight')!r}, which the base has not",
                hint="is this the base that it was trained on?",
            )
        found[name] = known[names.stripped(name)]
    return found


def check_shapes(adapter: Adapter, matched: Mapping[str, str], shapes: Mapping[str, Sequence[int]]) -> None:
    """Raise CheckpointError when a change has not the shape of the weight that it is for."""
    for name, change in adapter.changes.items():
        if tuple(shapes[matched[name]]) != change.shape:
            raise CheckpointError(
                f"the adapter changes {name!r} as if it were {change.shape}; it is {tuple(shapes[matched[name]])}",
                hint="is this the base that it was trained on?",
            )


def _by_target(adapter: Adapter, plan: ConversionPlan) -> list[tuple[Step, list[LowRank | None]]]:
    """Give the steps that something changes for, and what changes each of their sources, in the adapter's order."""
    stored = plan.checkpoint.tensors
    matched = match_changes(adapter.changes, stored)
    check_shapes(adapter, matched, {name: tensor.shape for name, tensor in stored.items()})
    steps = {source.name: step for step in plan.steps for source in step.sources}
    changes = {matched[name]: change for name, change in adapter.changes.items()}
    found: dict[str, tuple[Step, list[LowRank | None]]] = {}
    for name in changes:
        step = steps.get(name)
        if step is None:
            raise CheckpointError(
                f"the adapter changes {name.removesuffix('.weight')!r}, which no tensor of the GGUF model is made of"
            )
        found[step.targets[0].name] = step, [changes.get(source.name) for source in step.sources]
    return list(found.values())


def _converted(
    step: Step, changes: Sequence[LowRank | None], plan: ConversionPlan, alpha: float
) -> Iterator[tuple[str, Array]]:
    present = [change for change in changes if change]
    first = present[0]
    target = step.targets[0].name
    if first.is_embedding:
        # llama.cpp looks rows up in A, which is stored as rows x rank (llm_build_inp_embd).
        a, b = first.factors()
        yield f"{target}.lora_a", np.ascontiguousarray(a.T)
        yield f"{target}.lora_b", _scaled(b, first, first.rank, alpha)
        return
    rank = max(change.rank for change in present)
    sources = [
        _factors(change, source.shape, rank, alpha) for change, source in zip(changes, step.sources, strict=True)
    ]
    try:
        results = through(step.op, sources, plan.config)
    except CheckpointError as error:
        raise CheckpointError(
            f"the adapter changes {first.name.removesuffix('.weight')!r}: {error}",
            hint="ggufkit merge-lora adds it to the checkpoint, which then converts",
        ) from None
    for layout, result in zip(step.targets, results, strict=False):
        if result.shape != layout.shape or not layout.name.endswith(".weight"):
            raise CheckpointError(f"{first.name}: factors of shape {result.shape} for {layout.name} of {layout.shape}")
        if len(layout.shape) > 2 and not layout.name.endswith("_exps.weight"):
            raise CheckpointError(
                f"the adapter changes {first.name.removesuffix('.weight')!r}; llama.cpp adds nothing to {layout.name}",
                hint="ggufkit merge-lora adds it to the checkpoint, which then converts",
            )
        # What was put side by side has more ranks than its parts, and llama.cpp divides by the number of ranks.
        b = result.b * np.float32(result.b.shape[-1] / rank) if result.b.shape[-1] != rank else result.b
        if len(results) == 1 or np.any(b):  # of a weight that is taken apart, perhaps not all parts are changed
            yield f"{layout.name}.lora_a", result.a
            yield f"{layout.name}.lora_b", b


def _factors(change: LowRank | None, shape: Sequence[int], rank: int, alpha: float) -> Factors:
    """Give the factors of one source of `shape`, padded with zeros to `rank`; all zeros where nothing changes."""
    if change is None:
        return Factors(np.zeros((rank, shape[1]), np.float32), np.zeros((shape[0], rank), np.float32))
    a, b = change.factors()
    b = _scaled(b, change, rank, alpha)
    if change.rank < rank:
        a = np.pad(a, ((0, rank - change.rank), (0, 0)))
        b = np.pad(b, ((0, 0), (0, rank - change.rank)))
    return Factors(b.T, a.T) if change.transposed else Factors(a, b)


def _scaled(b: Array, change: LowRank, rank: int, alpha: float) -> Array:
    """Put into B what this module's scale has beyond alpha / rank, which llama.cpp multiplies by."""
    wanted = change.scale * rank / alpha
    return b if math.isclose(wanted, 1.0, rel_tol=1e-12) else np.asarray(b * np.float32(wanted))


def _common_alpha(adapter: Adapter) -> float:
    """Choose the one alpha of the file: that by which most modules need no scaling of their own."""
    counts: dict[float, int] = {}
    for change in adapter.changes.values():
        alpha = round(change.scale * change.rank, 12)
        counts[alpha] = counts.get(alpha, 0) + 1
    return max(counts, key=lambda alpha: counts[alpha])


def _norms(adapter: Adapter, plan: ConversionPlan) -> Iterator[tuple[str, str]]:
    """Give the norms that mergekit puts into adapters, by the names that they get in GGUF."""
    if not adapter.whole:
        return
    matched = match_changes(adapter.whole, plan.checkpoint.tensors)
    steps = {source.name: step for step in plan.steps for source in step.sources}
    for name, stored in matched.items():
        if step := steps.get(stored):
            yield step.targets[0].name, name


def _refuse_whole(adapter: Adapter) -> None:
    """A GGUF adapter holds factors; of whole tensors only norms are let through, as llama.cpp's converter does."""
    for name in adapter.whole:
        if "_layernorm" in name or ".norm" in name:
            continue
        what = "embedding (new tokens, perhaps)" if "embed" in name or "lm_head" in name else "tensor"
        raise CheckpointError(
            f"{adapter.folder}: the adapter holds the whole {what} {name!r}, and not factors (modules_to_save); "
            "a GGUF adapter has no place for it",
            hint="ggufkit merge-lora puts it into the checkpoint, which then converts",
        )


def _refuse_tied_embedding(adapter: Adapter, plan: ConversionPlan) -> None:
    """llama.cpp aborts on a changed embedding that is the output too: it finds the factors by the tensor's name."""
    targets = {target.name for step in plan.steps for target in step.targets}
    for change in adapter.changes.values():
        if change.is_embedding and "output.weight" not in targets:
            raise CheckpointError(
                f"the adapter changes {change.name.removesuffix('.weight')!r}, which is this model's output as well; "
                "llama.cpp aborts on such an adapter",
                hint="ggufkit merge-lora adds it to the checkpoint, which then converts",
            )


def _invocation_tokens(adapter: Adapter) -> Any:
    tokens = adapter.config.get("alora_invocation_tokens")
    if tokens is None:
        if adapter.config.get("invocation_string"):
            raise CheckpointError(f"{adapter.folder}: an activated LoRA without alora_invocation_tokens")
        return None
    if not isinstance(tokens, list) or not all(isinstance(token, int) and 0 <= token < 2**31 for token in tokens):
        raise CheckpointError(f"{adapter.folder}: alora_invocation_tokens is {tokens!r}, expected a list of ids")
    return Value(tokens, GGUFValueType.ARRAY, GGUFValueType.UINT32)


def _type(array: Array, outtype: OutputType) -> GGMLQuantizationType:
    wanted = outtype.tensor_type
    return GGMLQuantizationType.F16 if array.shape[-1] % block_size(wanted)[0] else wanted
