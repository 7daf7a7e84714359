"""Short names for plots: the type where that tells models apart, else what is special of the file's name."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ggufkit.reports.reading import Model, Run

_LONGEST = 20


def short_names(run: "Run") -> Mapping[str, str]:
    """Give each file of a run a name of at most 20 characters, all different."""
    models = [run.base, *run.models]
    kinds = [model.type for model in models]
    if len(set(kinds)) == len(kinds) and "unknown" not in kinds:
        return {model.file: _cut(model.type) for model in models}
    return dict(zip([model.file for model in models], _of_files(models), strict=True))


def _of_files(models: "Sequence[Model]") -> list[str]:
    stems = [model.file.removesuffix(".gguf") for model in models]
    common = next((n for n, letters in enumerate(zip(*stems, strict=False)) if len(set(letters)) > 1), 0)
    start = max(stems[0][:common].rfind(mark) for mark in "-_.") + 1
    names = [_cut(stem[start:] or stem) for stem in stems]
    return [name if names.count(name) == 1 else f"{number + 1} {name}" for number, name in enumerate(names)]


def _cut(name: str) -> str:
    return name if len(name) <= _LONGEST else f"{name[: _LONGEST // 2 - 1]}…{name[-_LONGEST // 2 :]}"
