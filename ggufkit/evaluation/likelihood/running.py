"""How the models of an evaluation are run: threads, devices and caches, the same for all."""

from dataclasses import dataclass
from enum import StrEnum
from typing import TypeVar

from ggufkit.errors import UsageError
from ggufkit.inference.options import CacheType, EngineOptions, FlashAttention

_Choice = TypeVar("_Choice", bound=StrEnum)


def _one_of(choices: type[_Choice], word: str, what: str) -> _Choice:
    if word not in [choice.value for choice in choices]:
        raise UsageError(f"{word!r} is no {what}; there are {', '.join(choices)}")
    return choices(word)


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """How models are run; the same for all that are compared."""

    threads: int | None = None
    gpu_layers: int | str = "auto"
    cache_type_k: str = "f16"
    cache_type_v: str = "f16"
    flash_attention: str = "auto"
    rpc_servers: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Refuse what the engine would refuse later, in a process of its own. Raises UsageError."""
        self.options()

    def options(self, *, vocabulary_only: bool = False) -> EngineOptions:
        """Make the engine's options."""
        return EngineOptions(
            threads=self.threads,
            gpu_layers=self.gpu_layers,  # type: ignore[arg-type]  # "auto" and "all" are checked there
            cache_type_k=_one_of(CacheType, self.cache_type_k, "type of keys"),
            cache_type_v=_one_of(CacheType, self.cache_type_v, "type of values"),
            flash_attention=_one_of(FlashAttention, self.flash_attention, "flash attention"),
            rpc_servers=tuple(self.rpc_servers),
            vocabulary_only=vocabulary_only,
        )
