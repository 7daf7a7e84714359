"""What Ollama says of a GGUF file: its kind, and the config blob of a model made from it.

Read from server/create.go (createModel, isProjectorGGUF), types/model/config.go (ConfigV2: the keys and their order),
format/format.go (HumanNumber), fs/ggml/ggml.go (KV: what counts when a key is absent or of another type) and
fs/ggml/type.go (FileType.String).
"""

import enum
from dataclasses import dataclass
from typing import Any

from ggufkit.exports.ollama import go_json
from ggufkit.gguf_file.reader import GgufHeader, ValueType

_UNKNOWN = "unknown"
# fs/ggml/type.go. Of 0 (all F32) Ollama says "unknown", because KV.FileType takes 0 for an absent key; of the
# types that it never learned to name (IQ…, TQ…), because String has no case for them.
_FILE_TYPES = {
    1: "F16",
    2: "Q4_0",
    3: "Q4_1",
    4: "MXFP4",
    7: "Q8_0",
    8: "Q5_0",
    9: "Q5_1",
    10: "Q2_K",
    11: "Q3_K_S",
    12: "Q3_K_M",
    13: "Q3_K_L",
    14: "Q4_K_S",
    15: "Q4_K_M",
    16: "Q5_K_S",
    17: "Q5_K_M",
    18: "Q6_K",
    21: "Q2_K_S",
    32: "BF16",
}
# server/create.go: architectures for which Ollama itself names the code that renders and parses their chats.
_RENDERERS = {
    "gemma4": "gemma4",
    "laguna": "laguna",
    "nemotron_h": "nemotron-3-nano",
    "nemotron_h_moe": "nemotron-3-nano",
    "nemotron_h_omni": "nemotron-3-nano",
}
_OWN_STOPS = {"gemma4": ["<turn|>"]}


class Kind(enum.Enum):
    """What a GGUF file is to Ollama; the value is the last word of its layer's media type."""

    MODEL = "model"
    ADAPTER = "adapter"
    PROJECTOR = "projector"


@dataclass(frozen=True, slots=True)
class Config:
    """The config of a model, in the words of types/model/config.go."""

    model_format: str
    model_family: str
    model_families: tuple[str, ...]
    model_type: str
    file_type: str
    renderer: str = ""
    parser: str = ""

    def encode(self) -> bytes:
        """Give the bytes of the blob. `architecture` and `os` are these two words on every machine."""
        values: dict[str, Any] = {
            "model_format": self.model_format,
            "model_family": self.model_family,
            "model_families": self.model_families,
            "model_type": self.model_type,
            "file_type": self.file_type,
            **({"renderer": self.renderer} if self.renderer else {}),
            **({"parser": self.parser} if self.parser else {}),
            "architecture": "amd64",
            "os": "linux",
        }
        return go_json.encode(values)


def config_of(header: GgufHeader, *, elements: int | None = None) -> Config:
    """Describe a model file; `elements` is the number of weights when there are more in other parts of it."""
    family = architecture_of(header)
    renderer = _RENDERERS.get(family, "")
    return Config(
        "gguf",
        family,
        (family,),
        human_number(header.elements if elements is None else elements),
        _FILE_TYPES.get(_uint(header, "general.file_type"), _UNKNOWN),
        renderer,
        renderer,
    )


def own_stops(architecture: str) -> list[str]:
    """Give the stop texts that Ollama sets for an architecture when nobody else does."""
    return _OWN_STOPS.get(architecture, [])


def kind_of(header: GgufHeader) -> Kind:
    """Tell a model from an adapter and a projector (`mmproj`)."""
    declared = _text(header, "general.type")
    if declared == "adapter":
        return Kind.ADAPTER
    architecture = architecture_of(header)
    blocks = _uint(header, f"{architecture}.block_count")
    encoders = any(header.metadata.get(f"{architecture}.has_{name}_encoder") is True for name in ("vision", "audio"))
    if (
        declared in {"projector", "mmproj"}
        or (blocks == 0 and _uint(header, f"{architecture}.vision.block_count") > 0)
        or (architecture == "clip" and blocks == 0 and encoders)
    ):
        return Kind.PROJECTOR
    return Kind.MODEL


def architecture_of(header: GgufHeader) -> str:
    """Name the architecture as the file does."""
    return _text(header, "general.architecture")


def human_number(count: int) -> str:
    """Write a number of weights as Ollama does: 7.6B, 494.03M, 12K; whole numbers without decimals.

    Python rounds as Go does here: the exact binary value, halves to even.
    """
    for scale, decimals, suffix in ((10**9, 1, "B"), (10**6, 2, "M")):
        if count >= scale:
            number = count / scale
            return f"{number:.0f}{suffix}" if number.is_integer() else f"{number:.{decimals}f}{suffix}"
    return f"{count / 1000:.0f}K" if count >= 1000 else str(count)


def _text(header: GgufHeader, key: str) -> str:
    value = header.metadata.get(key)
    return value if isinstance(value, str) else _UNKNOWN


def _uint(header: GgufHeader, key: str) -> int:
    """Read an integer as Ollama's KV.Uint does, which knows but one type of them."""
    entry = header.metadata.entries.get(key)
    value = header.metadata[key] if entry is not None and entry.kind is ValueType.UINT32 else 0
    return value if isinstance(value, int) else 0
