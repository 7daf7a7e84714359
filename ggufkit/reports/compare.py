"""Two results of the same models: what changed from one run to the next."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ggufkit.reports.reading import Model, Run

_INDIFFERENT = {"system", "memory", "chunks"}  # what no figure depends on; chunks are compared with the texts


@dataclass(frozen=True, slots=True)
class Figure:
    """One figure of a model in both runs; `form` is how it is written. `clear`: no noise explains the difference."""

    name: str
    old: float | None
    new: float | None
    form: str
    clear: bool = False


@dataclass(frozen=True, slots=True)
class Change:
    """One model in both runs, or in one of them only; `figures` are those that both have, or one of them has."""

    file: str
    old: Model | None
    new: Model | None
    figures: tuple[Figure, ...] = ()

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

    @property
    def moved(self) -> list[Figure]:
        """The figures that differ."""
        return [figure for figure in self.figures if figure.old != figure.new]


@dataclass(frozen=True, slots=True)
class Comparison:
    """All changes, the base's first if there is one, and the doubts: what else differs between the runs."""

    changes: tuple[Change, ...]
    doubts: tuple[str, ...]
    base: Change


def compare(old: Run, new: Run) -> Comparison:
    """Compare two runs, model by model: the same file (by its hash, else its name), else the only one of a type."""
    doubts = []
    if old.base.sha256 != new.base.sha256:
        doubts.append(f"the bases differ: {old.base.file} and {new.base.file}")
    if _texts(old) != _texts(new):
        doubts.append("the texts, or how much of them was read, differ")
    doubts += [f"{what}: {was} and {now}" for what, was, now in _differences(old, new)]
    by_type = all(len({model.type for model in run.models}) == len(run.models) for run in (old, new))
    changes = []
    for before, after in _pairs(old.models, new.models):
        model = after or before
        assert model
        changes.append(_change(model.type if by_type else model.file, old, new, before, after))
    return Comparison(tuple(changes), tuple(doubts), _change(new.base.file, old, new, old.base, new.base))


def _pairs(old: Sequence[Model], new: Sequence[Model]) -> list[tuple[Model | None, Model | None]]:
    """Find for each model of the old run the one that it became, in the old run's order; new ones come last."""
    left = list(new)
    found: dict[int, Model] = {}
    keys: tuple[Callable[[Model], str], ...] = (
        lambda model: model.sha256 if set(model.sha256) != {"0"} else "",
        lambda model: model.file,
        lambda model: model.type,
    )
    for key in keys:
        for number, model in enumerate(old):
            if number in found or not key(model):
                continue
            alike = [other for other in left if key(other) == key(model)]
            rivals = [other for place, other in enumerate(old) if place not in found and key(other) == key(model)]
            if len(alike) == len(rivals) == 1:
                found[number] = alike[0]
                left.remove(alike[0])
    return [(model, found.get(number)) for number, model in enumerate(old)] + [(None, model) for model in left]


_FIGURES: tuple[tuple[str, str, str], ...] = (  # of a model: attribute, heading, format
    ("bytes", "size", ",d"),
    ("mean_kld", "KL divergence", ".6f"),
    ("worst_kld", "99.9 %", ".6f"),
    ("largest_kld", "largest", ".6f"),
    ("perplexity", "perplexity", ".4f"),
    ("same_top", "same top", ".2%"),
    ("rms_delta_p", "RMS Δp", ".2%"),
    ("planned_bytes", "memory planned", ",d"),
)


def _change(file: str, old: Run, new: Run, before: Model | None, after: Model | None) -> Change:
    if before is None or after is None:
        return Change(file, before, after)
    change = Change(file, before, after)
    figures = [
        Figure(
            name,
            getattr(before, attribute),
            getattr(after, attribute),
            form,
            change.is_clear and attribute == "mean_kld",
        )
        for attribute, name, form in _FIGURES
    ]
    shares = {task.task: task for task in after.tasks}
    for task in before.tasks:
        now = shares.get(task.task)
        apart = now is not None and (task.high < now.low or now.high < task.low)
        figures.append(Figure(task.task, task.share, now.share if now else None, ".2%", apart))
    figures += _speeds(old, new, before, after)
    limits = Figure("limits failed", float(_failed(old, before)), float(_failed(new, after)), ".0f")
    replies = Figure("replies changed", 0.0, float(_replies_changed(old, new, before, after)), ".0f")
    return Change(file, before, after, (*figures, limits, replies))


def _speeds(old: Run, new: Run, before: Model, after: Model) -> list[Figure]:
    """Compare the medians of the tests that both have; clear is what lies beyond all repeats of the other run."""
    mine = {speed.test: speed for speed in old.speeds if speed.file == before.file}
    found = []
    for speed in new.speeds:
        was = mine.get(speed.test)
        if speed.file == after.file and was is not None:
            apart = was.high < speed.low or speed.high < was.low
            found.append(Figure(f"{speed.test}, tokens/s", was.median, speed.median, ",.1f", apart))
            if was.peak_bytes is not None and speed.peak_bytes is not None and len(found) == 1:
                found.append(Figure("peak memory", was.peak_bytes, speed.peak_bytes, ",d"))
    return found


def _failed(run: Run, model: Model) -> int:
    """Count the limits of the run that a model fails."""
    documents = [it for it in run.raw.get("models") or () if isinstance(it, dict) and it.get("file") == model.file]
    return len(documents[0].get("failed") or ()) if documents else 0


def _replies_changed(old: Run, new: Run, before: Model, after: Model) -> int:
    """Count the prompts of both runs to which a model replies otherwise than it did."""
    was, now = _replies(old, before), _replies(new, after)
    return sum(was[prompt] != now[prompt] for prompt in was if prompt in now)


def _replies(run: Run, model: Model) -> dict[str, object]:
    found: dict[str, object] = {}
    place = next((number for number, each in enumerate(run.models) if each is model), None)
    for it in _list(run.raw.get("generations")):
        replies = [it.get("base")] if place is None else _list(it.get("replies"))
        number = place or 0
        if number < len(replies) and isinstance(reply := replies[number], dict):
            found[str(it.get("prompt"))] = reply.get("text")
    return found


def _list(value: object) -> list[Any]:
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []


def _differences(old: Run, new: Run) -> list[tuple[str, object, object]]:
    """Name the settings, the machine and the build that differ, with both values."""
    found: list[tuple[str, object, object]] = []
    for part in ("settings", "machine", "llama_cpp", "gates"):
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
