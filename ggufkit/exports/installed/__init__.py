"""The models on this machine, wherever programs keep them: Hugging Face's cache, Ollama, LM Studio, our own folders.

Nothing is opened but small files: what a model is called and how it is quantized, its path says.
"""

from collections.abc import Sequence
from pathlib import Path

from ggufkit.checkpoints import own_models
from ggufkit.errors import InputError
from ggufkit.exports.installed import folders, hub, ollama
from ggufkit.exports.installed.model import InstalledModel, Removal, Where
from ggufkit.exports.lmstudio import models_folder

__all__ = ["InstalledModel", "Removal", "Where", "find", "installed_models", "remove"]


def installed_models(extra: Sequence[Path] = ()) -> list[InstalledModel]:
    """List all models, those of `extra` folders too; a store that cannot be read holds one entry that says why."""
    own = [*own_models.folders(), *extra]
    lmstudio = models_folder()
    found = [
        *hub.models(),
        *ollama.models(),
        *folders.models(lmstudio, Where.LMSTUDIO),
        *(model for folder in own for model in folders.models(folder, Where.GGUFKIT)),
    ]
    return sorted(found, key=lambda model: (list(Where).index(model.where), model.name.lower()))


def find(name: str, where: Where | None = None, extra: Sequence[Path] = ()) -> list[InstalledModel]:
    """Find the models that a name means: one by its whole name or path, or all that the cache has of a repository.

    Raises:
        InputError: there is none, or several places have one; the message lists them.
    """
    models = [model for model in installed_models(extra) if where in {None, model.where}]
    wanted = name.removeprefix("hf://").lower()
    exact = [
        model
        for model in models
        if model.name.lower() == wanted or (model.path and str(model.path) == str(Path(name).absolute()))
    ]
    exact = exact or [model for model in models if model.name.lower() == f"{wanted}:latest"]
    chosen = exact or [model for model in models if model.where is Where.HUB and _repository(model.name) == wanted]
    if not chosen:
        near = [model.name for model in models if wanted in model.name.lower()][:5]
        hint = f"did you mean {', '.join(near)}?" if near else "ggufkit list shows what is here"
        raise InputError(f"there is no model {name!r} on this machine", hint=hint)
    if len({model.where for model in chosen}) > 1 or (exact and len(exact) > 1 and exact[0].where is not Where.HUB):
        places = ", ".join(f"{model.where.value} ({model.path})" for model in chosen)
        raise InputError(f"{name!r} is in several places: {places}", hint="say which by --from, or by its path")
    return chosen


def remove(models: Sequence[InstalledModel]) -> list[Removal]:
    """Remove models, and what of theirs no other model needs.

    Raises:
        OutputError: something may not be removed.
    """
    by_place = {
        Where.HUB: hub.remove,
        Where.OLLAMA: ollama.remove,
        Where.LMSTUDIO: folders.remove,
        Where.GGUFKIT: folders.remove,
    }
    return [by_place[model.where](model) for model in models]


def _repository(name: str) -> str:
    return name.lower().partition("@")[0].partition(":")[0]
