"""What to fetch of a repository: a checkpoint, or one quantization of a GGUF model, as a list of files."""

import json
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from ggufkit.checkpoints import hub, hub_cache, hub_transfer
from ggufkit.checkpoints.hub import Listing, ModelName, RemoteFile
from ggufkit.checkpoints.hub_selection import (
    RemoteGguf,
    choose_checkpoint,
    choose_gguf,
    filtered,
    gguf_models,
    holds_checkpoint,
    projectors,
)
from ggufkit.errors import HubError, UsageError

_LARGEST_INDEX = 100_000_000


class Kind(StrEnum):
    """What is wanted of a repository."""

    ANY = "any"  # its checkpoint if it has one, else a GGUF model
    CHECKPOINT = "checkpoint"
    GGUF = "gguf"


@dataclass(frozen=True, slots=True)
class PullOptions:
    """What of a repository is wanted, and where to.

    `include` and `exclude` are shell patterns of paths; with `include` they choose among all files of the repository.
    """

    kind: Kind = Kind.ANY
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    local_folder: Path | None = None
    projector: bool = False


@dataclass(frozen=True, slots=True)
class PlannedPull:
    """The files that will be fetched: `model` is the path of the GGUF file to open, None for a checkpoint."""

    listing: Listing
    files: tuple[RemoteFile, ...]
    model: str | None
    projector: str | None
    other_projectors: tuple[str, ...]

    @property
    def size(self) -> int:
        """The bytes of all files."""
        return sum(file.size for file in self.files)


def plan_pull(name: ModelName, options: PullOptions | None = None) -> PlannedPull:
    """Choose the files, asking the hub what there is.

    Raises:
        HubError: the repository cannot be read, or what is wanted of it is missing or ambiguous.
        UsageError: the patterns leave no file.
    """
    options = options or PullOptions()
    listing = hub.list_files(name.repository)
    return choose(listing, name.quantization, options)


def choose(listing: Listing, quantization: str | None, options: PullOptions) -> PlannedPull:
    """Choose files of a listing. Raises as `plan_pull`."""
    others = projectors(listing)
    if options.include:
        files = filtered(listing.files, options.include, options.exclude, of=str(listing.repository))
        models = [file.path for file in files if file.path.endswith(".gguf") and file not in _files(others)]
        return PlannedPull(listing, files, models[0] if models else None, None, ())
    wants_checkpoint = options.kind is Kind.CHECKPOINT or (
        options.kind is Kind.ANY and quantization is None and holds_checkpoint(listing)
    )
    if wants_checkpoint:
        if quantization:
            raise UsageError(
                f"{listing.repository.id}:{quantization} is a GGUF file, and a checkpoint is needed",
                hint=f"leave :{quantization} away, or name the repository of the original model",
            )
        files = choose_checkpoint(listing, lambda file: _shards(listing, file))
        model: str | None = None
        projector: tuple[RemoteGguf, ...] = ()
    else:
        if not gguf_models(listing) and holds_checkpoint(listing):
            raise HubError(
                f"{listing.repository} holds a checkpoint and no GGUF file",
                hint=f"ggufkit quantize {quantization or 'Q4_K_M'} {listing.repository.id}",
            )
        chosen = choose_gguf(listing, quantization)
        projector = others[:1] if options.projector else ()
        if options.projector and not others:
            raise HubError(f"{listing.repository} holds no multimodal projector (mmproj)")
        files, model = (*chosen.files, *_files(projector)), chosen.path
    files = filtered(files, (), options.exclude, of=str(listing.repository))
    return PlannedPull(
        listing, files, model, projector[0].path if projector else None, tuple(each.path for each in others)
    )


def _files(models: Iterable[RemoteGguf]) -> tuple[RemoteFile, ...]:
    return tuple(file for model in models for file in model.files)


def _shards(listing: Listing, index: RemoteFile) -> list[str]:
    """Read which files an index names, in the cache or from the hub."""
    if index.size > _LARGEST_INDEX:
        raise HubError(f"{listing.repository}: {index.path} has {index.size:,} bytes, too many for an index")
    with tempfile.TemporaryDirectory() as folder:
        path = hub_cache.snapshot_of(listing) / index.path
        if not path.is_file():
            path = Path(folder) / "index.json"
            file, content_name = hub_transfer.described(listing, index)
            hub_transfer.fetch(listing, file, path, content_name, report=lambda _: None, wait=_sleep)
        try:
            names = json.loads(path.read_bytes())["weight_map"].values()
            return [str(name) for name in names]
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise HubError(f"{listing.repository}: {index.path} is no index of weights") from None


def _sleep(seconds: float, _: str) -> None:
    time.sleep(seconds)
