"""What people write for a model, made a path: a file or folder here, or `owner/repo[:QUANT]`, fetched when needed.

    path = resolve(text, kind="gguf", quiet=quiet)

The first line of a command that takes MODEL. `kind` says what the command can open: "gguf", "checkpoint" or "any".
"""

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ggufkit.cli import _output

if TYPE_CHECKING:
    from ggufkit.checkpoints.hub import ModelName
    from ggufkit.checkpoints.hub_pull import Kind
    from ggufkit.errors import InputError

HELP = "A GGUF file, or owner/repo[:QUANT] on the hub."


_WORDS = {
    "checkpoint": ("folder", "the folder that holds config.json, or owner/repo on the hub"),
    "gguf": ("file", "a GGUF file, or a model on the hub as owner/repo:QUANT"),
    "any": ("file or folder", "a GGUF file, a checkpoint folder, or a model on the hub as owner/repo[:QUANT]"),
}


def resolve(text: str | Path, *, kind: Literal["any", "checkpoint", "gguf"] = "any", quiet: bool = False) -> Path:
    """Return the path of a model: `text` itself when it exists, else what is in the cache, else what is fetched to it.

    Raises:
        InputError: there is neither such a path, nor such a model on the hub.
        HubError: what the repository holds is not what is needed, or ambiguous; the hub cannot be reached.
        OutputError: the disk is too small.
    """
    path = Path(text)
    if is_here(path):
        return path
    name = name_on_hub(text)
    if name is None:
        raise no_such(path, kind)
    from ggufkit.checkpoints.hub_pull import Kind, find_cached

    return find_cached(name, Kind(kind)) or _fetch(name, Kind(kind), quiet=quiet)


def no_such(path: Path, kind: Literal["any", "checkpoint", "gguf"] = "any") -> "InputError":
    """Make the error for a path that is not there: the hint has similar names, else what would do."""
    from ggufkit.cli._next_step import of_missing
    from ggufkit.errors import InputError

    what, wanted = _WORDS[kind]
    return InputError(f"no such {what}: {path}", hint=of_missing(path) or f"give {wanted}")


def is_here(path: Path) -> bool:
    """Tell whether a path is there, or at least that nobody can say it is not."""
    try:
        return path.exists() or path.is_symlink()
    except OSError:  # in a folder that is closed to us, or too long: whoever opens it says so
        return True


def name_on_hub(text: str | Path) -> "ModelName | None":
    """Read what means a model on the hub; None for a path that exists, and for what can only be a path."""
    if is_here(Path(text)):
        return None
    from ggufkit.checkpoints.hub import model_name

    return model_name(str(text))


def _fetch(name: "ModelName", kind: "Kind", *, quiet: bool) -> Path:
    from ggufkit.checkpoints.hub import list_files
    from ggufkit.checkpoints.hub_pull import PullOptions, choose, pull
    from ggufkit.errors import HubError

    options = PullOptions(kind)
    try:
        listing = list_files(name.repository)
    except HubError as error:
        if name.explicit:
            raise
        raise HubError(f"no path here is called {name}; as a model on the hub: {error}", hint=error.hint) from None
    plan = choose(listing, name.quantization, options)
    if not quiet:
        _output.note(f"fetching {plan.model or 'the checkpoint'} of {name.repository} ({_output.size(plan.size)})")
    with _output.progress_bar(quiet=quiet) as progress:
        return pull(plan, options, progress=progress).path


def beside(model: Path, name: str) -> Path:
    """Where an output goes that belongs to a model: beside it, but for one in the hub's cache to the current folder."""
    from ggufkit.checkpoints.hub_cache import repository_of

    return Path(name) if repository_of(model) else model.with_name(name)


def name_of(folder: Path) -> str:
    """Name a model after its folder, or after its repository when the folder is a snapshot in the hub's cache."""
    from ggufkit.checkpoints.hub_cache import repository_of

    repository = repository_of(folder)
    return repository.rpartition("/")[2] if repository else folder.resolve().name
