"""Thin, typed handles on libllama: a model, a context, a sampler chain. They own C memory and know no policy."""

from ggufkit.llamacpp.native.batch import SequenceBatch
from ggufkit.llamacpp.native.context import CACHE_TYPES, FLASH_ATTENTION, AbortedError, Context
from ggufkit.llamacpp.native.library import has_gpu, log_excerpt
from ggufkit.llamacpp.native.model import Adapter, Model
from ggufkit.llamacpp.native.placement import LOAD_MODES, SPLIT_MODES, Placement
from ggufkit.llamacpp.native.sampler import Sampler, SamplerSettings
from ggufkit.llamacpp.native.vocabulary import Vocabulary

__all__ = [
    "CACHE_TYPES",
    "FLASH_ATTENTION",
    "LOAD_MODES",
    "SPLIT_MODES",
    "AbortedError",
    "Adapter",
    "Context",
    "Model",
    "Placement",
    "Sampler",
    "SamplerSettings",
    "SequenceBatch",
    "Vocabulary",
    "has_gpu",
    "log_excerpt",
]
