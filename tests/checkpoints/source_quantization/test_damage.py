"""Damaged checkpoints of every library: read or refused with a sentence, never a traceback."""

import copy
import json
import math
import random
from typing import Any

import library_fixtures
import pytest
import stored_tensors
from stored_tensors import Stored

from ggufkit.checkpoints import DequantizedTensor
from ggufkit.checkpoints.source_quantization import undo_quantization
from ggufkit.errors import CheckpointError

SIZES = {"F32": 4, "F16": 2, "BF16": 2, "I32": 4, "I64": 8, "I8": 1, "U8": 1, "F8_E4M3": 1, "BOOL": 1}
MODULES = ("layers.0.self_attn.q_proj", "layers.0.mlp.down_proj")
VALUES: list[Any] = [None, 0, -1, -2, 3, 4, 8, "x", [], {}, True, 1e9, 10**30, 32]
NAMES = [name for name in library_fixtures.NAMES if (library_fixtures.DATA / name / "model.safetensors").is_file()]
ROUNDS = 40


def damaged(chance: random.Random, tensors: Stored, settings: dict[str, Any]) -> None:
    """Change one thing: leave a part out, give it another type or shape or content, or the config another value."""
    name = chance.choice(sorted(tensors))
    dtype, shape, data = tensors[name]
    match chance.randrange(6):
        case 0:
            del tensors[name]
        case 1:
            other = chance.choice(sorted(SIZES))
            tensors[name] = (other, shape, _filled(data, math.prod(shape) * SIZES[other]))
        case 2:
            other_shape = tuple(
                chance.choice([size, max(0, size - 1), size + 1, size * 2, size // 2]) for size in shape
            )
            tensors[name] = (dtype, other_shape, _filled(data, math.prod(other_shape) * SIZES[dtype]))
        case 3:
            turned = shape[:-1] if shape and shape[-1] == 1 else shape[::-1]
            tensors[name] = (dtype, chance.choice([(*shape, 1), turned]), data)
        case 4:
            fill = chance.choice([b"\xff", b"\0", chance.randbytes(97)])
            tensors[name] = (dtype, shape, _filled(fill, len(data)))
        case _:
            settings[chance.choice(sorted({*settings, "bits", "group_size", "load_in_4bit"}))] = chance.choice(VALUES)


def _filled(data: bytes, size: int) -> bytes:
    return (data * (size // max(1, len(data)) + 1))[:size] if data else bytes(size)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.filterwarnings("error")
def test_damage_is_no_traceback(name: str) -> None:
    folder = library_fixtures.DATA / name
    whole = {
        key: entry
        for key, entry in stored_tensors.read(folder / "model.safetensors").items()
        if any(module in key for module in MODULES)
    }
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    chance = random.Random(name)
    refused = 0
    for _ in range(ROUNDS):
        tensors, changed = dict(whole), copy.deepcopy(config)
        damaged(chance, tensors, changed["quantization_config"])
        try:
            found, _ = undo_quantization(changed, stored_tensors.in_memory(tensors))
            for tensor in found.values():
                if isinstance(tensor, DequantizedTensor):
                    stored_tensors.values(tensor, range(tensor.shape[0] // 3, tensor.shape[0] // 2 + 1))
                    if blocks := tensor.blocks():
                        blocks.encode(range(tensor.shape[0]))
        except CheckpointError:
            refused += 1
    assert refused > ROUNDS // 10


@pytest.mark.parametrize("name", NAMES)
def test_integers_and_scales_need_each_other(name: str) -> None:
    """As when a shard is missing: what is left of a module is neither guessed at nor taken for something else."""
    folder = library_fixtures.DATA / name
    whole = stored_tensors.read(folder / "model.safetensors")
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    tensors, _ = undo_quantization(config, stored_tensors.in_memory(whole))
    weight = next(tensor for tensor in tensors.values() if isinstance(tensor, DequantizedTensor))
    integers, *beside = [part.name for part in weight.parts]
    scales = (".scale", ".scales", "weight_scale", "weight_scale_inv", "global_scale", ".SCB", "absmax")
    for missing in (integers, *(part for part in beside if part.endswith(scales))):
        left = {key: entry for key, entry in whole.items() if key != missing}
        with pytest.raises(CheckpointError) as caught:
            undo_quantization(config, stored_tensors.in_memory(left))
        assert weight.name.removesuffix(".weight") in str(caught.value)
        assert caught.value.hint, caught.value
