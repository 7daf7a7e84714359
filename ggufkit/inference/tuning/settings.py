"""The settings that tuning tries, and which of them are worth trying on this machine."""

from dataclasses import dataclass, replace
from typing import Any

from ggufkit.inference.options import CacheType, EngineOptions, FlashAttention, LoadMode
from ggufkit.llamacpp import cpu

_MICRO_BATCHES = (64, 128, 256, 512, 1024, 2048)


@dataclass(frozen=True, slots=True)
class Settings:
    """How a model runs; the names are those of `EngineOptions`, with the numbers of threads spelled out."""

    threads: int
    threads_batch: int
    micro_batch_size: int = 512
    flash_attention: FlashAttention = FlashAttention.AUTO
    cache_type_k: CacheType = CacheType.F16
    cache_type_v: CacheType = CacheType.F16
    load_mode: LoadMode = LoadMode.AUTO

    @classmethod
    def default(cls) -> "Settings":
        """Return what the engine does when nobody says anything."""
        cores, options = cpu.usable_cores(), EngineOptions()
        return cls(
            threads=cores,
            threads_batch=cores,
            micro_batch_size=options.micro_batch_size,
            flash_attention=options.flash_attention,
            cache_type_k=options.cache_type_k,
            cache_type_v=options.cache_type_v,
            load_mode=options.load_mode,
        )

    def changed_from(self, other: "Settings") -> dict[str, Any]:
        """Return the settings that are not those of another one, by name."""
        return {
            name: getattr(self, name)
            for name in self.__dataclass_fields__
            if getattr(self, name) != getattr(other, name)
        }

    def engine_options(self) -> dict[str, Any]:
        """Return the keyword arguments of `EngineOptions` that differ from what the engine does by itself."""
        return self.changed_from(Settings.default())


def for_generating(default: Settings, most_threads: int) -> list[Settings]:
    """Return the default, and the same with other numbers of threads for generating."""
    return [default, *(replace(default, threads=count) for count in _threads(default.threads, most_threads))]


def for_reading(default: Settings, most_threads: int) -> list[Settings]:
    """Return the default, and the same with other numbers of threads for prompts."""
    counts = _threads(default.threads_batch, most_threads)
    return [default, *(replace(default, threads_batch=count) for count in counts)]


def micro_batches(start: Settings, longest: int) -> list[Settings]:
    """Return the start, and the same with other sizes of what is computed at once, up to the length of the prompt."""
    sizes = [size for size in _MICRO_BATCHES if size <= longest and size != start.micro_batch_size]
    return [start, *(replace(start, micro_batch_size=size) for size in sizes)]


def most_threads() -> int:
    """Return how many threads make sense at most: the logical CPUs that are ours, or the cgroup's quota of them."""
    quota = cpu.cgroup_quota()
    logical = len(cpu.allowed_cpus())
    return logical if quota is None else max(1, min(logical, round(quota)))


def _threads(usual: int, most: int) -> list[int]:
    """Return other numbers of threads: fewer, for memory is shared, one less, for others live here, and all."""
    tried = (usual // 4, usual // 2, usual * 3 // 4, usual - 1, (usual + most) // 2, most)
    return sorted({count for count in tried if 1 <= count <= most} - {usual})
