"""Checkpoints in tests/data/source_quantization, made and explained by the libraries that quantize (make-fixtures)."""

import base64
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

DATA = Path(__file__).parents[1] / "data" / "source_quantization"
NAMES = sorted(path.parent.name for path in DATA.glob("*/reference.json"))
ELSEWHERE: list[Path] = []  # folders of fixtures that are made only when named, and not committed
# Of a normal number, when it is rounded to the element type; float32 stands for sums in an order of their own.
ROUNDING = {"float32": 2.0**-22, "float16": 2.0**-11, "bfloat16": 2.0**-8}
# Its library has no dequantization of its own that runs on a CPU but its layer, which computes in 16 bits.
ROUNDED_TWICE = {"auto-round-own-3bit-g64-asymmetric"}


@dataclass(frozen=True)
class Told:
    """What the library says of a tensor: the type in which it dequantizes, the hash of all, and samples."""

    dtype: str
    shape: tuple[int, ...]
    sha256: str
    sample: np.ndarray

    def is_exactly(self, values: np.ndarray) -> bool:
        """Tell whether float32 values, rounded to the library's type, are the library's."""
        assert values.shape == self.shape
        return hashlib.sha256(rounded(values, self.dtype).tobytes()).hexdigest() == self.sha256

    def error(self, values: np.ndarray) -> float:
        """Measure the largest error of the samples, relative to the largest sample."""
        places = np.linspace(0, values.size - 1, self.sample.size).astype(np.int64)
        return float(np.abs(values.reshape(-1)[places] - self.sample).max() / np.abs(self.sample).max())


@dataclass(frozen=True)
class Reference:
    """What a library says of a checkpoint."""

    tensors: dict[str, Told]
    tokens: list[int]
    logits: np.ndarray


def folder(name: str) -> Path:
    """Find a fixture, committed or not."""
    return next(place / name for place in (DATA, *ELSEWHERE) if (place / name).is_dir())


def reference(name: str) -> Reference:
    told = json.loads((folder(name) / "reference.json").read_text(encoding="utf-8"))
    tensors = {
        key: Told(entry["dtype"], tuple(entry["shape"]), entry["sha256"], _array(entry["sample"]))
        for key, entry in told["tensors"].items()
    }
    return Reference(tensors, told["tokens"], _array(told["logits"]).reshape(len(told["tokens"]), -1))


def read(tensor: Any) -> np.ndarray:
    """Read a tensor of a checkpoint, quantized or plain, as float32."""
    raw = bytearray(tensor.size)
    tensor.read_into(memoryview(raw))
    if tensor.dtype == "BF16":
        found = (np.frombuffer(raw, "<u2").astype(np.uint32) << 16).view(np.float32)
    else:
        found = np.frombuffer(raw, {"F32": "<f4", "F16": "<f2"}[tensor.dtype]).astype(np.float32)
    return found.reshape(tensor.shape)


def rounded(values: np.ndarray, dtype: str) -> np.ndarray:
    """Round float32 to an element type as torch does, to nearest even; no zero stays negative."""
    values = np.ascontiguousarray(values, np.float32) + np.float32(0)
    if dtype == "float16":
        return values.astype(np.float16)
    if dtype == "bfloat16":
        bits = values.view(np.uint32)
        return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
    return values


def versions(name: str) -> dict[str, Any]:
    return json.loads((folder(name) / "versions.json").read_text(encoding="utf-8"))


def _array(text: str) -> np.ndarray:
    return np.frombuffer(base64.b64decode(text), "<f4")
