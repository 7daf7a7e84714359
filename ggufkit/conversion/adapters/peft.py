"""An adapter folder as PEFT saves it: adapter_config.json and adapter_model.safetensors.

Source of names and scales: huggingface/peft, src/peft/tuners/lora (config.py, layer.py) and utils/save_and_load.py.
"""

import contextlib
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ggufkit.checkpoints import StoredTensor
from ggufkit.checkpoints.config import read_json_object
from ggufkit.checkpoints.folder import check_folder
from ggufkit.checkpoints.name_patterns import matches
from ggufkit.checkpoints.safetensors import SafetensorsFile
from ggufkit.conversion.elements import STORED, to_float32
from ggufkit.errors import CheckpointError

Array = NDArray[Any]

_PREFIX = "base_model.model."
_FACTORS = {
    ".lora_A.weight": "a",
    ".lora_B.weight": "b",
    ".lora_embedding_A": "a",
    ".lora_embedding_B": "b",
}
# What changes how the factors act, and the value at which it changes nothing.
_REFUSED = {
    "use_dora": "DoRA rescales each column of the weights, which a GGUF adapter cannot say",
    "use_qalora": "QALoRA pools its inputs, which a GGUF adapter cannot say",
    "target_parameters": "factors of bare parameters (fused experts) are not supported",
    "trainable_token_indices": "single trained rows of the embedding are not supported",
    "layer_replication": "replicated layers make another model than the base",
    "megatron_config": "Megatron's layers are not supported",
}


@dataclass(frozen=True, slots=True)
class LowRank:
    """What is to be added to one weight: scale x B @ A, by PEFT's names.

    `a` is rank x inputs, `b` outputs x rank. Of an embedding, whose weight is rows x width, `a` is rank x rows and `b`
    width x rank. `transposed` says that the weight is stored as (B @ A) transposed: embeddings, and GPT-2's Conv1D.
    """

    name: str
    a: StoredTensor
    b: StoredTensor
    scale: float
    transposed: bool
    is_embedding: bool

    @property
    def rank(self) -> int:
        """The number of columns of B."""
        return self.b.shape[1]

    @property
    def shape(self) -> tuple[int, int]:
        """The shape of the weight as the checkpoint stores it."""
        rows, columns = self.b.shape[0], self.a.shape[1]
        return (columns, rows) if self.transposed else (rows, columns)

    def factors(self) -> tuple[Array, Array]:
        """Read A and B as float32."""
        return read(self.a), read(self.b)

    def delta(self) -> Array:
        """Compute what is to be added to the stored weight, in float64."""
        a, b = self.factors()
        product: Array = self.scale * (b.astype(np.float64) @ a.astype(np.float64))
        return product.T if self.transposed else product


@dataclass(frozen=True, slots=True)
class Adapter:
    """An open adapter: the changes by the name of the weight, and whole tensors that take a weight's place."""

    folder: Path
    config: Mapping[str, Any]
    changes: Mapping[str, LowRank]
    whole: Mapping[str, StoredTensor]

    @property
    def alpha(self) -> float:
        """PEFT's `lora_alpha`."""
        return float(self.config["lora_alpha"])


@contextlib.contextmanager
def open_adapter(folder: Path) -> Iterator[Adapter]:
    """Open an adapter folder.

    Raises:
        CheckpointError: a file is missing or malformed, the adapter is no LoRA, or one of a kind that is not just a
            sum of low-rank products; the message says what it is.
    """
    config = _read_config(folder)
    path = folder / "adapter_model.safetensors"
    if not path.is_file():
        if (folder / "adapter_model.bin").is_file():
            raise CheckpointError(
                f"{folder}: adapter_model.bin is a pickle, which is not read here", hint="save it as safetensors"
            )
        raise CheckpointError(f"no adapter_model.safetensors in {folder}")
    file = SafetensorsFile(path)
    try:
        changes, whole = _sort(path, config, file.tensors)
        yield Adapter(folder, config, changes, whole)
    finally:
        file.close()


def read(tensor: StoredTensor) -> Array:
    """Read a whole tensor as float32, in its shape.

    Raises:
        CheckpointError: it is of no float type.
    """
    if tensor.dtype not in STORED:
        raise CheckpointError(f"tensor {tensor.name!r} is of type {tensor.dtype}, expected a float type")
    stored: Array = np.empty(math.prod(tensor.shape), STORED[tensor.dtype])
    tensor.read_into(stored.view(np.uint8).data)
    return to_float32(stored, tensor.dtype).reshape(tensor.shape)


def _read_config(folder: Path) -> Mapping[str, Any]:
    path = folder / "adapter_config.json"
    if folder.is_dir():
        check_folder(folder)
    if not path.is_file():
        raise CheckpointError(f"no adapter_config.json in {folder}", hint="give the folder that PEFT saved")
    config: Mapping[str, Any] = read_json_object(path)
    if (kind := config.get("peft_type")) != "LORA":
        raise CheckpointError(f"{path}: peft_type is {kind!r}; only LORA is supported")
    for key, reason in _REFUSED.items():
        if config.get(key):
            raise CheckpointError(f"{path}: {key} is {json.dumps(config[key])[:60]}: {reason}")
    for key, kinds in (("lora_alpha", (int, float)), ("r", (int,))):
        value = config.get(key)
        if isinstance(value, bool) or not isinstance(value, kinds) or not 0 < value < 1e9:
            raise CheckpointError(f"{path}: {key} is {value!r}, expected a positive number")
    for key in ("rank_pattern", "alpha_pattern"):
        pattern = config.get(key) or {}
        if not isinstance(pattern, dict) or not all(isinstance(v, int | float) and v > 0 for v in pattern.values()):
            raise CheckpointError(f"{path}: {key} is {pattern!r}, expected an object of positive numbers")
    if config.get("bias", "none") != "none" or config.get("lora_bias"):
        raise CheckpointError(f"{path}: the adapter has trained biases, which are not supported")
    return config


def _sort(
    path: Path, config: Mapping[str, Any], tensors: Mapping[str, StoredTensor]
) -> tuple[dict[str, LowRank], dict[str, StoredTensor]]:
    pairs: dict[str, dict[str, StoredTensor]] = {}
    embeddings: set[str] = set()
    whole: dict[str, StoredTensor] = {}
    for name, tensor in tensors.items():
        if "lora_magnitude_vector" in name:
            raise CheckpointError(f"{path}: {name} belongs to DoRA: {_REFUSED['use_dora']}")
        suffix = next((suffix for suffix in _FACTORS if name.endswith(suffix)), None)
        if suffix is None:
            if not name.endswith(".base_layer.weight"):  # PEFT repeats the embedding beside its factors
                whole[name.removeprefix(_PREFIX).replace(".modules_to_save.", ".")] = tensor
            continue
        module = name.removeprefix(_PREFIX).removesuffix(suffix)
        pairs.setdefault(module, {})[_FACTORS[suffix]] = tensor
        if "embedding" in suffix:
            embeddings.add(module)
    changes = {}
    for module, pair in pairs.items():
        if missing := {"a", "b"} - set(pair):
            raise CheckpointError(f"{path}: {module} has no lora_{missing.pop().upper()}")
        a, b = pair["a"], pair["b"]
        if len(a.shape) != 2 or len(b.shape) != 2 or a.shape[0] != b.shape[1] or not a.shape[0]:
            raise CheckpointError(f"{path}: {module}: A of shape {a.shape} and B of shape {b.shape} do not go together")
        is_embedding = module in embeddings
        changes[f"{module}.weight"] = LowRank(
            name=f"{module}.weight",
            a=a,
            b=b,
            scale=_scale(config, module, a.shape[0]),
            transposed=is_embedding or bool(config.get("fan_in_fan_out")),
            is_embedding=is_embedding,
        )
    if not changes:
        raise CheckpointError(f"{path} holds no LoRA factors")
    return changes, whole


def _scale(config: Mapping[str, Any], module: str, rank: int) -> float:
    """PEFT: alpha / r, or alpha / sqrt(r) (rank-stabilized, arXiv 2312.03732); r is what the factors have."""
    alpha = float(config["lora_alpha"])
    for pattern, value in (config.get("alpha_pattern") or {}).items():
        if matches(rf"(?:.*\.)?(?:{pattern})$", module, where="adapter_config.json: alpha_pattern"):
            alpha = float(value)
            break
    return alpha / math.sqrt(rank) if config.get("use_rslora") else alpha / rank
