"""Tensors of one number that GGUF keeps as metadata, one for each block."""

from collections.abc import Mapping

import numpy as np

from ggufkit.architectures import ArchSpec, names
from ggufkit.checkpoints import Config, StoredTensor
from ggufkit.conversion.elements import STORED, to_float32
from ggufkit.errors import CheckpointError


def read_numbers(
    spec: ArchSpec, config: Config, stored: Mapping[str, StoredTensor]
) -> tuple[dict[str, list[float]], dict[str, StoredTensor]]:
    """Read the lists that `ArchSpec.tensor_metadata` asks for; also give the tensors that are left.

    Raises:
        CheckpointError: a block's number is missing, is not one number, or is of a type that holds none.
    """
    left = dict(stored)
    by_name = {names.stripped(name): name for name in stored} if spec.tensor_metadata else {}
    lists: dict[str, list[float]] = {}
    for key, path in spec.tensor_metadata.items():
        lists[key] = []
        for block in range(config["layers"]):
            wanted = path.format(b=block)
            tensor = left.pop(by_name.get(names.stripped(wanted), wanted), None)
            if tensor is None:
                raise CheckpointError(f"no tensor {wanted!r} in the checkpoint", hint="a shard may be missing")
            lists[key].append(_number(tensor))
    return lists, left


def _number(tensor: StoredTensor) -> float:
    if tensor.dtype not in STORED or int(np.prod(tensor.shape, dtype=int)) != 1:
        raise CheckpointError(f"tensor {tensor.name!r} is {tensor.dtype} of shape {tensor.shape}, expected one number")
    stored = np.empty(1, STORED[tensor.dtype])
    tensor.read_into(stored.view(np.uint8).data)
    return float(to_float32(stored, tensor.dtype)[0])
