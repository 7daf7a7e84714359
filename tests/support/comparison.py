"""Compare what we make of a tiny checkpoint with its golden: what llama.cpp's converter makes of it."""

import hashlib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from gguf import GGUFReader
from recipes import RECIPES, golden

from ggufkit.architectures import spec_for
from ggufkit.checkpoints import open_checkpoint
from ggufkit.conversion import OutputType
from ggufkit.conversion.execute import execute
from ggufkit.conversion.plan import ConversionPlan, make_plan
from ggufkit.progress import silent

OUTTYPES = (OutputType.F32, OutputType.F16, OutputType.BF16, OutputType.Q8_0)


def convert(folder: Path, outtype: OutputType) -> tuple[ConversionPlan, GGUFReader]:
    """Convert without a tokenizer, of which tiny checkpoints have none."""
    with open_checkpoint(folder) as opened:
        spec = spec_for(opened.config.architecture, opened.config.model_type)
        plan = make_plan(opened, spec, outtype, description={})
        output = folder / f"{outtype}.gguf"
        output.touch()
        execute(plan, output, threads=1, progress=silent)
    return plan, GGUFReader(output)


def differences(name: str, folder: Path) -> dict[str, Any]:
    """Convert a recipe's checkpoint to every type; what differs from its golden, ours first, theirs second."""
    recipe, expected = RECIPES[name], golden(name)
    found: dict[str, Any] = {}
    for place, outtype in enumerate(OUTTYPES):
        plan, reader = convert(folder, outtype)
        if recipe.no_golden is not None:
            continue
        tensors = {key: [entry[0], entry[min(place + 1, len(entry) - 1)]] for key, entry in expected["tensors"].items()}
        ours = {"architecture": plan.spec.name, **_fields(reader), **_tensors(reader)}
        theirs = {"architecture": expected["architecture"], **expected["metadata"], **tensors}
        found |= {f"{key} at {outtype}": pair for key, pair in _unlike(ours, theirs, recipe.explained).items()}
    return found


def _unlike(ours: Mapping[str, Any], theirs: Mapping[str, Any], explained: Collection[str]) -> dict[str, Any]:
    keys = {*ours, *theirs} - set(explained)
    return {key: (ours.get(key), theirs.get(key)) for key in sorted(keys) if ours.get(key) != theirs.get(key)}


def _tensors(reader: GGUFReader) -> dict[str, Any]:
    return {
        tensor.name: [
            tensor.shape.tolist()[::-1],
            f"{tensor.tensor_type.name} {hashlib.sha256(tensor.data.tobytes()).hexdigest()[:16]}",
        ]
        for tensor in reader.tensors
    }


def _fields(reader: GGUFReader) -> dict[str, Any]:
    return {
        key: [[kind.name for kind in field.types], field.contents()]
        for key, field in reader.fields.items()
        if not key.startswith(("GGUF.", "general.", "tokenizer."))
    }
