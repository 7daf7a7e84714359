"""The settings that tuning tries, and which of them are worth trying on this machine."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from ggufkit.inference.attention import PLAIN_TYPES, Attention
from ggufkit.inference.options import CacheType, EngineOptions, FlashAttention, LoadMode
from ggufkit.llamacpp import cpu

_ATTENTION = ("flash_attention", "micro_batch_size")
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
    def default(cls, chosen: Attention) -> "Settings":
        """Return what the engine does when nobody says anything; how attention is computed it has `chosen`."""
        cores, options = cpu.usable_cores(), EngineOptions()
        return cls(
            threads=cores,
            threads_batch=cores,
            micro_batch_size=chosen.micro_batch_size,
            flash_attention=FlashAttention(chosen.flash),
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

    def engine_options(self, default: "Settings") -> dict[str, Any]:
        """Return the keyword arguments of `EngineOptions` with which the engine does this instead of its default.

        Where it leaves the fused kernel by itself, it does so with a micro batch of its own: then both are said.
        """
        changed = self.changed_from(default)
        if default.flash_attention is not FlashAttention.AUTO and changed.keys() & _ATTENTION:
            changed |= {name: getattr(self, name) for name in _ATTENTION}
        return changed


def for_generating(default: Settings, most_threads: int) -> list[Settings]:
    """Return the default, and the same with other numbers of threads for generating."""
    return [default, *(replace(default, threads=count) for count in _threads(default.threads, most_threads))]


def for_reading(default: Settings, most_threads: int) -> list[Settings]:
    """Return the default, and the same with other numbers of threads for prompts."""
    counts = _threads(default.threads_batch, most_threads)
    return [default, *(replace(default, threads_batch=count) for count in counts)]


def micro_batches(start: Settings, longest: int, fits: Callable[[int], bool]) -> list[Settings]:
    """Return the start, and the same with other sizes of what is computed at once, up to the length of the prompt.

    Where attention is not fused, only those count for whose scores there is memory: `fits` knows.
    """
    unfused = start.flash_attention is FlashAttention.OFF
    sizes = [size for size in _MICRO_BATCHES if size <= longest and size != start.micro_batch_size]
    sizes = [size for size in sizes if fits(size)] if unfused else sizes
    return [start, *(replace(start, micro_batch_size=size) for size in sizes)]


def other_attention(start: Settings) -> Settings:
    """Return the same with the other way to compute attention; the fused one with the micro batch that suits it."""
    if start.flash_attention is FlashAttention.OFF:
        return replace(start, flash_attention=FlashAttention.ON, micro_batch_size=EngineOptions().micro_batch_size)
    return replace(start, flash_attention=FlashAttention.OFF)


def with_cache_type(start: Settings, kind: CacheType) -> Settings:
    """Return the same with keys and values of another type; quantized values need fused attention."""
    if kind in PLAIN_TYPES:
        return replace(start, cache_type_k=kind, cache_type_v=kind)
    fused = other_attention(start) if start.flash_attention is FlashAttention.OFF else start
    return replace(fused, cache_type_k=kind, cache_type_v=kind, flash_attention=FlashAttention.AUTO)


def most_threads() -> int:
    """Return how many threads make sense at most: the logical CPUs that are ours, or the cgroup's quota of them."""
    quota = cpu.cgroup_quota()
    logical = len(cpu.allowed_cpus())
    return logical if quota is None else max(1, min(logical, round(quota)))


def _threads(usual: int, most: int) -> list[int]:
    """Return other numbers of threads: fewer, for memory is shared, one less, for others live here, and all."""
    tried = (usual // 4, usual // 2, usual * 3 // 4, usual - 1, (usual + most) // 2, most)
    return sorted({count for count in tried if 1 <= count <= most} - {usual})
