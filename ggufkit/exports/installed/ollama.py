"""The models in Ollama's stores: the user's own, and that of the service."""

from pathlib import Path

from ggufkit.errors import InputError
from ggufkit.exports.installed.model import InstalledModel, Removal, Where
from ggufkit.exports.ollama.names import parse_name
from ggufkit.exports.ollama.store import SERVICE_STORE, Store, default_store, may_be_folder
from ggufkit.exports.ollama.writing import remove as remove_from_store
from ggufkit.homes import expanded


def models() -> list[InstalledModel]:
    """List the models of all stores that are there."""
    found = []
    for path in _stores():
        try:
            for model in Store(path).models():
                kept = (model.model,) if model.model else ()
                found.append(
                    InstalledModel(
                        Where.OLLAMA,
                        model.name.short,
                        "gguf",
                        model.quantization,
                        model.model,
                        kept,
                        model.size,
                        model.modified,
                        model.problem,
                    )
                )
        except InputError as error:
            found.append(InstalledModel(Where.OLLAMA, str(path), "unfinished", "", None, (), 0, 0.0, str(error)))
    return found


def remove(model: InstalledModel) -> Removal:
    """Remove a model from its store, with the blobs that no other model names.

    Raises:
        InputError: it is gone already.
        OutputError: the store belongs to somebody else.
    """
    name = parse_name(model.name)
    stores = [Store(path) for path in _stores()]
    store = next((s for s in stores if model.path and model.path.is_relative_to(s.path)), stores[0])
    removed = remove_from_store(store, name)
    return Removal(model.name, tuple(store.blob(digest) for digest in removed.blobs), removed.freed)


def _stores() -> list[Path]:
    found = dict.fromkeys([expanded(default_store()).absolute(), SERVICE_STORE])
    return [path for path in found if may_be_folder(path / "manifests")] or [default_store()]
