"""What is known of rounded inputs: measured once, kept, and made costs."""

import hashlib
import json
import math
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ggufkit.allocation.choices import Choices
from ggufkit.allocation.inputs.child import READ, InputsRequest
from ggufkit.allocation.measuring import Setting
from ggufkit.allocation.model import Model
from ggufkit.allocation.probes import reference_of
from ggufkit.allocation.row_errors import Errors
from ggufkit.allocation.sensitivity import Costs, Sensitivity
from ggufkit.evaluation.child_process import ask
from ggufkit.files import write_atomically
from ggufkit.gguf_file.tensor_types import TensorType
from ggufkit.llamacpp.input_reader import tensor_of
from ggufkit.progress import Progress

_CHILD = "ggufkit.allocation.inputs.child"
_MOST_CHUNKS = 4


@dataclass(frozen=True, slots=True)
class Rounding:
    """What rounding does to a matrix's outputs, mean squares relative to them.

    `weights` is that of its weights in `reference`; `inputs` that of its inputs, by the size of a block.
    """

    reference: TensorType
    weights: float
    inputs: Mapping[int, float]


def roundings_of(model: Model, probing: Setting, folder: Path, progress: Progress) -> Mapping[str, Rounding]:
    """Measure the matrices whose types are chosen, or read what an earlier run has kept.

    Raises:
        LlamaCppError: llama.cpp failed, or died.
    """
    wanted = {choice.name: reference_of(choice) for choice in model.choices if len(choice.types) > 1}
    spelled = {name: kind.name for name, kind in wanted.items()}
    digest = hashlib.sha256(json.dumps([probing.identity, spelled, _MOST_CHUNKS]).encode()).hexdigest()[:16]
    path = folder / f"inputs-{digest}.json"
    if (kept := _kept(path, wanted)) is not None:
        return kept
    chunks = probing.chunks.tokens[:_MOST_CHUNKS]
    with tempfile.TemporaryDirectory(dir=folder) as name:
        place = Path(name)
        np.asarray(chunks, "<i4").tofile(place / "chunks.i32")
        request = InputsRequest(
            sources=tuple(str(source.absolute()) for source in probing.sources),
            tokens=str((place / "chunks.i32").absolute()),
            chunk_tokens=probing.chunks.length,
            chunks=len(chunks),
            types=spelled,
            results=str((place / "results.json").absolute()),
            importance=str(probing.importance.absolute()) if probing.importance else "",
            include_weights=probing.include_weights,
            exclude_weights=probing.exclude_weights,
            threads=probing.running.threads or 0,
        )
        request.write(place / "request.json")

        def on_line(line: str) -> None:
            if line.startswith(READ):
                progress("Looking at inputs", int(line.removeprefix(READ)), len(chunks), "steps")

        ask(_CHILD, place / "request.json", str(model.source), on_line)
        write_atomically(path, (place / "results.json").read_bytes())
    return _kept(path, wanted) or {}


def _kept(path: Path, wanted: Mapping[str, TensorType]) -> Mapping[str, Rounding] | None:
    """Read what was measured; of stacked experts the mean of those that were looked at."""
    experts: dict[str, list[tuple[float, dict[int, float]]]] = {}
    try:
        for name, found in json.loads(path.read_text(encoding="utf-8")).items():
            inputs = {int(block): float(change) for block, change in found["inputs"].items()}
            if not all(math.isfinite(change) for change in (found["weights"], *inputs.values())):
                continue
            experts.setdefault(tensor_of(name), []).append((float(found["weights"]), inputs))
    except (OSError, ValueError, OverflowError, RecursionError, KeyError, TypeError, AttributeError):
        return None
    if not experts.keys() <= wanted.keys():
        return None
    return {
        name: Rounding(
            wanted[name],
            sum(weights for weights, _ in found) / len(found),
            {block: sum(inputs[block] for _, inputs in found) / len(found) for block in found[0][1]},
        )
        for name, found in experts.items()
    }


def input_costs(
    choices: Sequence[Choices],
    sensitivities: Mapping[str, Sensitivity],
    roundings: Mapping[str, Rounding],
    errors: Errors,
) -> Costs:
    """Say what each tensor's rounded inputs cost in each of its types, in nats.

    A change of the outputs costs what it cost when the weights made it: the probe says how much.
    """
    costs: dict[str, dict[TensorType, float]] = {}
    for choice in choices:
        own, found = sensitivities.get(choice.name), roundings.get(choice.name)
        costs[choice.name] = dict.fromkeys(choice.types, 0.0)
        if own is None or found is None or found.weights <= 0:
            continue
        of_type = errors[choice.name]
        weights = found.weights
        if own.reference is not found.reference and of_type[found.reference] > 0:
            weights *= of_type[own.reference] / of_type[found.reference]
        for kind in choice.types[:-1]:
            if kind.is_quantized and weights > 0:
                costs[choice.name][kind] = own.cost * found.inputs.get(kind.block_size, 0.0) / weights
    return costs
