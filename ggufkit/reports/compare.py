"""Two results of the same models: what changed from one run to the next."""

from collections.abc import Mapping
from dataclasses import dataclass

from ggufkit.reports.reading import Model, Run

_INDIFFERENT = {"system", "memory", "chunks"}  # what no figure depends on; chunks are compared with the texts


@dataclass(frozen=True, slots=True)
class Change:
    """One model in both runs, or in one of them only."""

    file: str
    old: Model | None
    new: Model | None

    @property
    def kld_change(self) -> float | None:
        """How much the mean KL divergence grew, in nats; None where it is not known in both."""
        if self.old is None or self.new is None or self.old.mean_kld is None or self.new.mean_kld is None:
            return None
        return self.new.mean_kld - self.old.mean_kld

    @property
    def is_clear(self) -> bool:
        """Whether the change exceeds twice the standard errors of both."""
        if self.kld_change is None or self.old is None or self.new is None:
            return False
        return abs(self.kld_change) > 2 * float((self.old.mean_kld_error**2 + self.new.mean_kld_error**2) ** 0.5)


@dataclass(frozen=True, slots=True)
class Comparison:
    """All changes, and the doubts: what else differs between the runs."""

    changes: tuple[Change, ...]
    doubts: tuple[str, ...]


def compare(old: Run, new: Run) -> Comparison:
    """Compare two runs, model by model: by their types where those are unique, else by their files."""
    doubts = []
    if old.base.sha256 != new.base.sha256:
        doubts.append(f"the bases differ: {old.base.file} and {new.base.file}")
    if _texts(old) != _texts(new):
        doubts.append("the texts, or how much of them was read, differ")
    doubts += [f"{what}: {was} and {now}" for what, was, now in _differences(old, new)]
    by_type = all(len({model.type for model in run.models}) == len(run.models) for run in (old, new))
    before, after = ({model.type if by_type else model.file: model for model in run.models} for run in (old, new))
    names = [*before, *(name for name in after if name not in before)]
    return Comparison(tuple(Change(name, before.get(name), after.get(name)) for name in names), tuple(doubts))


def _differences(old: Run, new: Run) -> list[tuple[str, object, object]]:
    """Name the settings, the machine and the build that differ, with both values."""
    found: list[tuple[str, object, object]] = []
    for part in ("settings", "machine", "llama_cpp"):
        was, now = _mapping(old.raw.get(part)), _mapping(new.raw.get(part))
        found += [
            (f"{part.replace('_', '.')}, {name}", was.get(name), now.get(name))
            for name in dict.fromkeys((*was, *now))
            if name not in _INDIFFERENT and was.get(name) != now.get(name)
        ]
    return found


def _mapping(value: object) -> Mapping[str, object]:
    return value if isinstance(value, dict) else {}


def _texts(run: Run) -> list[tuple[object, object]]:
    texts = run.raw.get("texts")
    return [(text.get("sha256"), text.get("chunks")) for text in texts] if isinstance(texts, list) else []
