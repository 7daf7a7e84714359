"""Tensors of torchao's own classes in `.bin` files: stand-ins take their place, so nothing of torchao is loaded or run.

Before its safetensors support, torchao's quantized weights could only be pickled. Such a pickle names a class, and the
attributes of the tensor that it was: plain tensors among them are all that is wanted.
"""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

_OURS = "torchao."
_WRAPPERS = ("original_weight_tensor", "tensor_impl", "layout_tensor")  # attributes that hold the real tensor
_NAMES = {"int_data": "qdata"}  # as older versions called it


def stand_ins(path: Path) -> AbstractContextManager[object]:
    """Have torch's safe unpickler put stand-ins where a file names torchao's classes; all else stays refused."""
    import torch

    named = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    tensor, inert = _stand_in_classes()
    ours = [(tensor if "Tensor" in name else inert, name) for name in named if name.startswith(_OURS)]
    found: AbstractContextManager[object] = torch.serialization.safe_globals(ours)
    return found


def flattened(name: str, tensor: "Tensor") -> Iterator[tuple[str, "Tensor"]]:
    """Give a plain tensor as it is, and the parts of a stand-in under the names that torchao gives them today."""
    parts = _parts(tensor)
    if parts is None:
        yield name, tensor
        return
    module, _, last = name.rpartition(".")
    for part, value in parts.items():
        yield f"{module}._{last}_{_NAMES.get(part, part)}", value


def _parts(tensor: "Tensor") -> Mapping[str, "Tensor"] | None:
    import torch

    if type(tensor) in (torch.Tensor, torch.nn.Parameter):
        return None
    held = vars(tensor)
    inner = next((held[wrapper] for wrapper in _WRAPPERS if isinstance(held.get(wrapper), torch.Tensor)), None)
    if inner is not None:
        return _parts(inner)
    return {key: value for key, value in held.items() if isinstance(value, torch.Tensor)}


def _stand_in_classes() -> tuple[type, type]:
    import torch

    def refuse(_: type, function: object, *__: object) -> None:
        raise NotImplementedError(f"a stand-in cannot do {function}")

    # has a type, a shape and attributes, and computes nothing
    stand_in = type("StandInTensor", (torch.Tensor,), {"__torch_dispatch__": classmethod(refuse)})

    class Inert:
        """Takes what it is made of, and forgets it."""

        def __init__(self, *_: object) -> None:
            pass

    return stand_in, Inert
