"""Uploading models to the Hugging Face hub, with a card; a second run goes on where the first was interrupted.

huggingface_hub does the talking. Each file is uploaded by itself, and one commit at the end shows them all: whoever
looks meanwhile sees the repository as it was. What the hub holds already, by its hash, is not sent again.
"""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from ggufkit.checkpoints import hub
from ggufkit.checkpoints.hub import Repository
from ggufkit.counting import counted
from ggufkit.errors import HubError, InputError, UsageError
from ggufkit.exports.model_card import MARK, CardFile, base_model, describe, model_card
from ggufkit.exports.placing import sha256_of
from ggufkit.fitness import read_fit_parts
from ggufkit.progress import Progress, silent

CARD = "README.md"
_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class PlannedPush:
    """What an upload consists of: `files` by their names in the repository, with their SHA-256; and the card."""

    repository: Repository
    files: dict[str, Path]
    hashes: dict[str, str]
    card: str
    base: str | None

    @property
    def size(self) -> int:
        """The bytes of all files, without the card."""
        return sum(path.stat().st_size for path in self.files.values())


@dataclass(frozen=True, slots=True)
class Pushed:
    """What was done: the commit's address (None where nothing had to change), and which files were there already."""

    url: str | None
    uploaded: tuple[str, ...]
    already_there: tuple[str, ...]
    card_kept: bool  # the repository has a card of somebody's own, which stays


def plan_push(
    models: Sequence[Path],
    repository: Repository,
    *,
    base: str | None = None,
    card: str | None = None,
    progress: Progress = silent,
) -> PlannedPush:
    """Look at the models, all parts of split ones, hash them, and write the card (or take `card`).

    Raises:
        GgufFileError: one is no GGUF file, or malformed.
        UsageError: two have the same name.
    """
    files: dict[str, Path] = {}
    described: list[CardFile] = []
    hashes: dict[str, str] = {}
    for model in _all_models(models):
        parts = [header.path for header in read_fit_parts(model)]
        for part in parts:
            if part.name in files:
                raise UsageError(f"two files are called {part.name}: {files[part.name]} and {part}")
            files[part.name] = part
            hashes[part.name] = sha256_of(part, progress, "Hashing")
        described.append(describe(model, {part.name: hashes[part.name] for part in parts}))
    base = base or base_model(described)
    return PlannedPush(repository, files, hashes, card or model_card(described, repository.id, base=base), base)


def _all_models(paths: Sequence[Path]) -> Iterator[Path]:
    for path in paths:
        if not path.is_dir():
            yield path
            continue
        found = [each for each in sorted(path.glob("*.gguf")) if "-of-" not in each.name or "-00001-of-" in each.name]
        if not found:
            raise InputError(f"{path} holds no GGUF file", hint=f"ggufkit quantize Q4_K_M {path} makes one")
        yield from found


def push(
    plan: PlannedPush,
    *,
    private: bool = False,
    message: str | None = None,
    bars: bool = False,
    progress: Progress = silent,
) -> Pushed:
    """Upload what the repository does not have yet, make it if need be, and commit everything at once.

    `progress` hears of whole files; `bars` lets huggingface_hub draw its own, which know of bytes.

    Raises:
        HubError: the hub cannot be reached, or does not let this account write there.
    """
    from huggingface_hub import CommitOperationAdd, HfApi
    from huggingface_hub.utils import disable_progress_bars

    if not bars:
        disable_progress_bars()
    api = HfApi(library_name="ggufkit")
    target = {"repo_id": plan.repository.id, "revision": plan.repository.revision}
    with _told_apart(plan.repository):
        api.create_repo(plan.repository.id, private=private or None, exist_ok=True)
        _choose_protocol(plan.repository)
    there = {file.path: file for file in hub.list_files(plan.repository).files}
    missing = [name for name in plan.files if name not in there or there[name].sha256 != plan.hashes[name]]
    total = sum(plan.files[name].stat().st_size for name in missing)
    operations: list[Any] = []
    done = 0
    for name in missing:
        progress("Uploading", done, total)
        operation = CommitOperationAdd(path_in_repo=name, path_or_fileobj=str(plan.files[name]))
        with _told_apart(plan.repository):
            api.preupload_lfs_files(additions=[operation], **target)
        operations.append(operation)
        done += plan.files[name].stat().st_size
    progress("Uploading", total, total)
    old_card = _card_of(plan.repository) if CARD in there else None
    card_kept = old_card is not None and MARK not in old_card and MARK in plan.card
    if not card_kept and old_card != plan.card:
        operations.append(CommitOperationAdd(path_in_repo=CARD, path_or_fileobj=plan.card.encode()))
    url = None
    if operations:
        with _told_apart(plan.repository):
            said = message or f"Upload {counted(len(missing), 'GGUF file')} with ggufkit"
            url = str(api.create_commit(operations=operations, commit_message=said, **target).commit_url)
    return Pushed(url, tuple(missing), tuple(name for name in plan.files if name not in missing), card_kept)


def _choose_protocol(repository: Repository) -> None:
    """Upload by LFS where the server has not heard of Xet, of which huggingface_hub would make a connection error."""
    from huggingface_hub import constants
    from huggingface_hub.utils import build_hf_headers, get_session

    revision = repository.revision or "main"
    url = f"{constants.ENDPOINT}/api/models/{repository.id}/xet-write-token/{quote(revision, safe='')}"
    answer = get_session().get(url, headers=build_hf_headers(library_name="ggufkit"), timeout=_SECONDS)
    if answer.status_code in {404, 405, 501}:
        constants.HF_HUB_DISABLE_XET = True


def _card_of(repository: Repository) -> str | None:
    listing = hub.list_files(repository)
    file = listing.file(CARD)
    return hub.read_range(listing, file, 0, file.size).decode("utf-8", "replace") if file else None


@contextlib.contextmanager
def _told_apart(repository: Repository) -> Iterator[None]:
    """Say in plain words what an upload can fail of; the rest is told as for downloads."""
    from huggingface_hub import errors

    with hub.told_apart(repository):
        try:
            yield
        except errors.HfHubHTTPError as error:
            response = getattr(error, "response", None)
            if response is not None and response.status_code in {401, 403}:
                raise HubError(
                    f"this account may not write to {repository.id}",
                    hint="set HF_TOKEN to a token that may write, or run `hf auth login`",
                ) from None
            raise
        except ValueError as error:  # the library's answer to a server that it does not understand
            raise HubError(f"uploading to {repository.id} failed: {str(error).splitlines()[0]}") from None
