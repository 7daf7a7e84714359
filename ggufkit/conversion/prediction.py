"""Multi-token prediction: blocks after a model's own, by which some checkpoints guess further tokens."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from ggufkit.architectures import ArchSpec, names
from ggufkit.checkpoints import Config, StoredTensor
from ggufkit.counting import counted

_BLOCK = re.compile(r"layers\.(\d+)\.")
# Qwen's and EXAONE's names for what DeepSeek, and llama.cpp after it, have in the block itself.
_OWN_LAYER = re.compile(r"mtp\.layers\.(\d+)\.(.+)")
_SHARED = {
    "mtp.fc.": "eh_proj.",
    "mtp.pre_fc_norm_embedding.": "enorm.",
    "mtp.pre_fc_norm_hidden.": "hnorm.",
    "mtp.norm.": "shared_head.norm.",
}


@dataclass(frozen=True, slots=True)
class Prediction:
    """How many such blocks a model has by its config, the tensors to convert, and what to tell of the others."""

    count: int
    tensors: Mapping[str, StoredTensor]
    remarks: tuple[str, ...]


def find_prediction(spec: ArchSpec, config: Config, stored: Mapping[str, StoredTensor], *, wanted: bool) -> Prediction:
    """Name the tensors of a prediction head as blocks after the model's own; leave them out where they do not help.

    They are kept if `wanted`, and if llama.cpp loads them for this architecture (`ArchSpec.predicts`).
    """
    layers = config["layers"]
    by_block = {name: _as_block(names.stripped(name), layers) for name in stored}
    heads = {found[1] for name in by_block.values() if (found := _BLOCK.match(name)) and ".eh_proj." in name}
    own: dict[str, StoredTensor] = {}
    further: dict[str, StoredTensor] = {}
    for name, tensor in stored.items():
        found = _BLOCK.match(by_block[name])
        is_further = by_block[name].startswith("mtp") or (found and int(found[1]) >= layers and found[1] in heads)
        (further if is_further else own)[by_block[name] if is_further else name] = tensor
    declared = config.get(spec.predicts) or 0 if spec.predicts else 0
    if not further:
        return Prediction(declared if wanted else 0, own, ())
    if wanted and spec.predicts:
        count = max(declared, *(int(head) - layers + 1 for head in heads), 1)
        return Prediction(
            count, {**own, **further}, (f"kept {counted(count, 'block')} of multi-token prediction (--mtp)",)
        )
    why = "as asked" if spec.predicts else f"llama.cpp does not load them in {spec.name}"
    return Prediction(0, own, (f"left out {counted(len(further), 'tensor')} of multi-token prediction: {why}",))


def _as_block(name: str, layers: int) -> str:
    if found := _OWN_LAYER.fullmatch(name):
        return f"layers.{layers + int(found[1])}.{found[2]}"
    for prefix, part in _SHARED.items():
        if name.startswith(prefix):
            return f"layers.{layers}.{part}{name.removeprefix(prefix)}"
    return name
