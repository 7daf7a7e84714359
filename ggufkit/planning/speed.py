"""How fast a planned model will generate on this machine: every token multiplies its state with all active weights.

So a token takes the sum, over the weights it needs, of the longer of two times: bringing them from memory, and
computing with them (`ggufkit.llamacpp.speed` measured both, once for this machine). The keys and values of past tokens
come on top as the conversation grows; the figure here is that of its beginning.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from ggufkit.errors import GgufkitError
from ggufkit.files import write_atomically
from ggufkit.gguf_file.tensor_types import TensorType
from ggufkit.llamacpp import cpu, find
from ggufkit.llamacpp.speed import Speeds, measure
from ggufkit.quantization.plan import PlannedTensor

# Per layer, threads wait for each other at some thirty steps; measured on small models, where that is all there is.
_SECONDS_PER_LAYER = 30e-6
_COMPUTED_ONLY = {"Q8_1", "Q8_K", "I8", "I16", "I32", "I64", "F64"}
_LOOKED_UP = {"token_embd.weight", "per_layer_token_embd.weight", "position_embd.weight", "token_types.weight"}


def tokens_per_second(tensors: Sequence[PlannedTensor], speeds: Speeds, metadata: Mapping[str, object]) -> float | None:
    """Estimate the tokens generated per second, with all weights in memory and little context.

    Of stacked experts only those that a token is sent to count. None where a tensor's type was not measured.
    """
    architecture = metadata.get("general.architecture")
    experts, used = (metadata.get(f"{architecture}.expert_{name}count") for name in ("", "used_"))
    share = used / experts if isinstance(experts, int) and isinstance(used, int) and experts else 1.0
    blocks = metadata.get(f"{architecture}.block_count")
    seconds = _SECONDS_PER_LAYER * (blocks if isinstance(blocks, int) else 0)
    tied = all(tensor.name != "output.weight" for tensor in tensors)
    for tensor in tensors:
        if tensor.name in _LOOKED_UP and not (tied and tensor.name == "token_embd.weight"):
            continue
        kernel = speeds.kernels.get(int(tensor.to))
        if not kernel:
            return None
        active = tensor.bytes_after * (share if "_exps." in tensor.name else 1.0)
        seconds += active / min(speeds.memory, kernel)
    return 1 / seconds if seconds else None


def machine_speeds(threads: int | None = None, *, again: bool = False) -> Speeds | None:
    """Return this machine's speeds from the cache, or measure them, which takes about a second; None if that fails.

    What disturbs a measurement makes it slower, never faster: `again` keeps the better of old and new figures.
    """
    threads = threads or cpu.usable_cores()
    path = find.cache_folder() / "speed.json"
    try:
        build = find.find()
        library = build.library("ggml-cpu").resolve()
        key = f"{cpu.model_name()}, {threads} threads, {library} of {library.stat().st_mtime_ns}"
        known = _cached(path)
        if key in known and not again:
            return known[key]
        speeds = measure(threads, [int(kind) for kind in TensorType if kind.name not in _COMPUTED_ONLY])
    except (GgufkitError, OSError):  # an estimate is no reason to give up
        return None
    if key in known:
        speeds = _better(known[key], speeds)
    _store(path, {**known, key: speeds})
    return speeds


def _better(one: Speeds, other: Speeds) -> Speeds:
    kernels = {kind: max(rate, one.kernels.get(kind, 0.0)) for kind, rate in other.kernels.items()}
    return Speeds(max(one.memory, other.memory), kernels)


def _cached(path: Path) -> dict[str, Speeds]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        return {
            key: Speeds(float(entry["memory"]), {int(kind): float(rate) for kind, rate in entry["kernels"].items()})
            for key, entry in document["machines"].items()
        }
    except (OSError, ValueError, RecursionError, KeyError, TypeError, AttributeError):
        return {}


def _store(path: Path, machines: Mapping[str, Speeds]) -> None:
    document = {
        "schema_version": 1,
        "unit": "bytes of weights per second",
        "machines": {key: {"memory": each.memory, "kernels": each.kernels} for key, each in machines.items()},
    }
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json.dumps(document, indent=1).encode())
    except (GgufkitError, OSError):  # a cache that cannot be written costs a second, not the answer
        return
