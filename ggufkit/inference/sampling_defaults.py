"""How tokens are chosen where nobody says: as the model's own file asks for it, else as llama.cpp does."""

from collections.abc import Callable
from typing import Any

from ggufkit.errors import UsageError
from ggufkit.inference.options import SamplingOptions

# The `gguf` package's Keys.General.SAMPLING_*; the converter writes them from generation_config.json.
_SAMPLING_KEYS: tuple[tuple[str, str, Any], ...] = (
    ("temperature", "general.sampling.temp", float),
    ("top_k", "general.sampling.top_k", int),
    ("top_p", "general.sampling.top_p", float),
    ("min_p", "general.sampling.min_p", float),
    ("repeat_penalty", "general.sampling.penalty_repeat", float),
    ("repeat_last_n", "general.sampling.penalty_last_n", int),
)


def sampling_asked_for(metadata: Callable[[str], str | None]) -> SamplingOptions:
    """Return llama.cpp's defaults under what the metadata asks for; a value that makes no sense is passed over."""
    found: dict[str, Any] = {}
    for name, key, kind in _SAMPLING_KEYS:
        text = metadata(key)
        if text is not None:
            try:
                found |= {name: kind(text)}
                SamplingOptions(**{name: kind(text)})
            except (ValueError, UsageError):
                del found[name]
    return SamplingOptions(**found)
