"""Measuring settings with llama-bench: one process for each, so that no two of them share anything."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ggufkit.inference.tuning.settings import Settings
from ggufkit.llamacpp import bench
from ggufkit.llamacpp.bench import BenchOptions


@dataclass(frozen=True, slots=True)
class Workload:
    """What one measurement computes: a prompt to read, or tokens to generate behind `depth` others."""

    prompt: int = 0
    generate: int = 0
    depth: int = 0

    def measure(self, model: Path, settings: Sequence[Settings], gpu_layers: int) -> list[float]:
        """Return the tokens per second of each of the settings. Raises LlamaCppError, MissingDependencyError."""
        return [self._measure(model, each, gpu_layers) for each in settings]

    def _measure(self, model: Path, settings: Settings, gpu_layers: int) -> float:
        options = BenchOptions(
            models=(model,),
            n_prompt=(self.prompt,),
            n_gen=(self.generate,),
            n_depth=(self.depth,),
            # llama-bench has one number of threads for both.
            n_threads=(settings.threads if self.generate else settings.threads_batch,),
            n_batch=(max(2048, settings.micro_batch_size),),
            n_ubatch=(settings.micro_batch_size,),
            type_k=(settings.cache_type_k,),
            type_v=(settings.cache_type_v,),
            flash_attn=(settings.flash_attention,),
            load_mode=(settings.load_mode,),
            n_gpu_layers=(gpu_layers,),
            repetitions=1,
        )
        [result] = bench.run(options)
        return result.avg_ts
