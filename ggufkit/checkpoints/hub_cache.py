"""Hugging Face's cache on this disk: where a repository's files lie in it, and what of them is there.

Its layout (huggingface_hub's guide "Understand caching"): `blobs/` holds contents by the name the hub gives them,
`snapshots/COMMIT/` links to them by their paths, `refs/REVISION` holds the commit of a branch or tag.
"""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ggufkit.checkpoints.hub import Listing, RemoteFile, Repository

_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True, slots=True)
class CachedRepository:
    """The folder of one repository in the cache."""

    folder: Path

    def snapshot(self, commit: str) -> Path:
        """The folder that shows the files of a commit."""
        return self.folder / "snapshots" / commit

    def blob(self, content_name: str) -> Path:
        """The file that holds a content."""
        return self.folder / "blobs" / content_name

    def show(self, commit: str, file: RemoteFile, content_name: str) -> Path:
        """Make a content appear under its path in a snapshot."""
        path = self.snapshot(commit) / file.path
        path.parent.mkdir(parents=True, exist_ok=True)
        target = os.path.relpath(self.blob(content_name), path.parent)
        if not path.is_symlink() or str(path.readlink()) != target:
            temporary = self._temporary()
            temporary.unlink(missing_ok=True)
            temporary.symlink_to(target)
            temporary.replace(path)
        return path

    def remember(self, repository: Repository, commit: str) -> None:
        """Note at which commit a branch or tag was."""
        revision = repository.revision or "main"
        if revision != commit:
            path = self.folder / "refs" / revision
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary = self._temporary()
            temporary.write_text(commit)
            temporary.replace(path)

    def _temporary(self) -> Path:
        """A name that no other process uses, where nobody looks for anything."""
        return self.folder / f".{os.getpid()}.ggufkit-part"


def cached_repository(repository: Repository) -> CachedRepository:
    """Give the place of a repository in the cache, whether or not it is there."""
    return CachedRepository(cache_root() / f"models--{repository.id.replace('/', '--')}")


def cache_root() -> Path:
    """The folder that HF_HUB_CACHE or HF_HOME names, `~/.cache/huggingface/hub` by default."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)


def repository_of(path: Path) -> str | None:
    """The `owner/repo` whose snapshot in the cache a path lies in, by its name alone; None for any other path."""
    for folder in (path.absolute(), *path.absolute().parents):
        if folder.parent.name == "snapshots" and folder.parents[1].name.startswith("models--"):
            return folder.parents[1].name.removeprefix("models--").replace("--", "/", 1)
    return None


def cached_listing(repository: Repository) -> Listing | None:
    """List what the cache holds of a repository at its revision, as if the hub had been asked; None if nothing.

    Files whose content is not whole have no blob yet, so they are not listed.
    """
    place = cached_repository(repository)
    commit = _commit(place, repository.revision)
    snapshot = place.snapshot(commit) if commit else None
    if commit is None or snapshot is None or not snapshot.is_dir():
        return None
    files = [
        RemoteFile(str(path.relative_to(snapshot)), path.stat().st_size)
        for path in sorted(snapshot.rglob("*"))
        if path.is_file()
    ]
    return Listing(repository, commit, tuple(files)) if files else None


def snapshot_of(listing: Listing) -> Path:
    """The folder that shows the files of a listing."""
    return cached_repository(listing.repository).snapshot(listing.commit)


def are_here(listing: Listing, files: Sequence[RemoteFile]) -> bool:
    """Whether the cache shows all of these files with the right sizes."""
    snapshot = snapshot_of(listing)
    return all(
        (snapshot / file.path).is_file() and (snapshot / file.path).stat().st_size == file.size for file in files
    )


def _commit(place: CachedRepository, revision: str | None) -> str | None:
    if revision and _COMMIT.fullmatch(revision):
        return revision
    path = place.folder / "refs" / (revision or "main")
    if ".." in path.parts or not path.is_relative_to(place.folder):  # git knows no such names
        return None
    try:
        commit = path.read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return None
    return commit if re.fullmatch(r"[0-9A-Za-z]{1,64}", commit) else None
