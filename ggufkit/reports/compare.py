"""Two results of the same models: what changed from one run to the next."""

from dataclasses import dataclass

from ggufkit.reports.reading import Model, Run


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
    if old.raw.get("settings") != new.raw.get("settings"):
        doubts.append("the settings differ")
    by_type = all(len({model.type for model in run.models}) == len(run.models) for run in (old, new))
    before, after = ({model.type if by_type else model.file: model for model in run.models} for run in (old, new))
    names = [*before, *(name for name in after if name not in before)]
    return Comparison(tuple(Change(name, before.get(name), after.get(name)) for name in names), tuple(doubts))


def _texts(run: Run) -> list[tuple[object, object]]:
    texts = run.raw.get("texts")
    return [(text.get("sha256"), text.get("chunks")) for text in texts] if isinstance(texts, list) else []
