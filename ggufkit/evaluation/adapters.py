"""A LoRA adapter: its GGUF file against what its PEFT folder should become; the folder added to transformers' model."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ggufkit.architectures import names
from ggufkit.conversion.adapters import open_adapter
from ggufkit.conversion.adapters.convert import BASE_FINGERPRINT, plan_adapter
from ggufkit.conversion.description import SOURCE_FINGERPRINT
from ggufkit.conversion.elements import encode
from ggufkit.counting import counted
from ggufkit.errors import CheckpointError, GgufkitError
from ggufkit.evaluation.results import Check, Grade
from ggufkit.gguf_file.reader import GgufHeader, read_header, tensor_bytes

NAME = "adapter"
_SHOWN = 8


def check_adapter(model: Path, folder: Path, base: Path, parts: Sequence[GgufHeader]) -> Check:
    """Compare every tensor of a GGUF adapter, alpha and the base's identity with what the PEFT folder should become."""
    faults: list[str] = []
    try:
        header = read_header(model)
        with open_adapter(folder) as adapter:
            plan = plan_adapter(adapter, base)
    except GgufkitError as error:
        return Check(NAME, Grade.FAILED, str(error))
    stored = {tensor.name: tensor for tensor in header.tensors}
    planned = {tensor.name: tensor for tensor in plan.layout.tensors}
    faults += [f"{name} is missing" for name in planned if name not in stored]
    faults += [f"{name} should not be there" for name in stored if name not in planned]
    for name in planned.keys() & stored.keys():
        info, wanted = stored[name], plan.tensors[name]
        if tuple(reversed(info.shape)) != wanted.shape:
            faults.append(f"{name} has shape {tuple(reversed(info.shape))}, expected {wanted.shape}")
            continue
        made = encode(np.ascontiguousarray(wanted).reshape(-1), "F32", info.type, wanted.shape[-1])
        with tensor_bytes(header, info) as data:
            if bytes(data) != made.tobytes():
                faults.append(f"{name} ({info.type.name}) holds other numbers")
    for key, expected in (
        ("general.architecture", plan.architecture),
        ("general.type", "adapter"),
        ("adapter.type", "lora"),
        ("adapter.lora.alpha", float(np.float32(plan.alpha))),
    ):
        if header.metadata.get(key) != expected:
            faults.append(f"{key} is {header.metadata.get(key)!r}, expected {expected!r}")
    made_for, made_of = header.metadata.get(BASE_FINGERPRINT), parts[0].metadata.get(SOURCE_FINGERPRINT)
    if made_for and made_of and made_for != made_of:
        faults.append(f"the adapter was made for another base: {made_for} and not {made_of}")
    figures = {"tensors": len(planned), "faults": faults}
    if faults:
        return Check(
            NAME, Grade.FAILED, f"{faults[0]} ({counted(len(faults), 'fault')})", tuple(faults[:_SHOWN]), figures
        )
    return Check(NAME, Grade.EXACT, f"{len(planned)} of {counted(len(planned), 'tensor')} bit-exact", (), figures)


def adding(folder: Path) -> Callable[[Any], None]:
    """Make what adds a PEFT folder's changes to the weights of a model that transformers has loaded."""

    def add(model: Any) -> None:
        import torch

        parameters = {names.stripped(name): parameter for name, parameter in model.named_parameters()}
        with open_adapter(folder) as adapter, torch.no_grad():
            for name, change in adapter.changes.items():
                parameter = parameters.get(names.stripped(name))
                if parameter is None:
                    raise CheckpointError(f"transformers' model has no weight {name!r} for the adapter to change")
                changed = parameter.data.double() + torch.from_numpy(np.ascontiguousarray(change.delta()))
                parameter.data = changed.to(parameter.dtype)

    return add
