"""What tuning found: every trial, what was chosen and how sure that is, and the profile that follows."""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ggufkit.inference import profile
from ggufkit.inference.profile import Profile
from ggufkit.inference.tuning.bench_measure import Workload
from ggufkit.inference.tuning.settings import Settings
from ggufkit.inference.tuning.trials import Comparison, Trial

GENERATING, READING, FAR = "generating", "reading", "generating far into the context"


@dataclass(frozen=True, slots=True)
class Stage:
    """One question that was put to the machine: from which settings, and the trials, best first."""

    name: str
    workload: str
    start: Settings
    trials: tuple[Trial, ...]


@dataclass(slots=True, kw_only=True)
class TuneResult:
    """What tuning found; speeds in tokens per second.

    `settings` are those of the profile: what differs from the default and gained. `skipped` names the stages for
    which there was no time. `load` is the machine's load average at the beginning, with how many CPUs it has.
    """

    model: Path
    default: Settings
    chosen: Settings
    stages: list[Stage] = field(default_factory=list)
    generating: Comparison = field(default_factory=Comparison)
    reading: Comparison = field(default_factory=Comparison)
    compared: Settings | None = None
    workloads: dict[str, Workload] = field(default_factory=dict)
    skipped: list[str] = field(default_factory=list)
    seconds: float = 0.0
    load: float = 0.0
    cpus: int = 1

    @property
    def settings(self) -> dict[str, Any]:
        """Return the keyword arguments of `EngineOptions` that were worth it."""
        return self.chosen.engine_options(self.default)

    @property
    def was_busy(self) -> bool:
        """Tell whether other programs kept a good part of the machine busy."""
        return self.load > 0.3 * self.cpus

    def as_json(self) -> dict[str, Any]:
        """Return everything as values that JSON has."""
        return {
            "model": str(self.model),
            "machine": profile.machine(),
            "settings": self.settings,
            "default": asdict(self.default),
            "chosen": asdict(self.chosen),
            "compared": asdict(self.compared) if self.compared else None,
            "stages": [asdict(stage) for stage in self.stages],
            GENERATING: _as_json(self.generating),
            READING: _as_json(self.reading),
            "workloads": {name: asdict(load) for name, load in self.workloads.items()},
            "skipped": self.skipped,
            "seconds": self.seconds,
            "load": self.load,
        }

    def profile(self) -> Profile:
        """Return the profile to be saved."""
        measured = {
            GENERATING: {"default": self.generating.default, "chosen": self.generating.chosen},
            READING: {"default": self.reading.default, "chosen": self.reading.chosen},
        }
        return Profile(settings=self.settings, model=self.model.name, machine=profile.machine(), measured=measured)


def _as_json(comparison: Comparison) -> dict[str, Any]:
    low, high = comparison.bounds
    known = comparison.ratios and high != float("inf")
    return {
        "default": comparison.default,
        "chosen": comparison.chosen,
        "gain": comparison.gain if comparison.ratios else None,
        "bounds": [low, high] if known else None,
        "is_faster": comparison.is_faster,
    }
