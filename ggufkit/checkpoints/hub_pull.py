"""From a name on the hub to files on this disk: choose, check the space, fetch, verify, show."""

import json
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
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
    matching,
    projectors,
)
from ggufkit.errors import HubError, OutputError, UnsafeError, UsageError
from ggufkit.files import PlannedFile, check_space
from ggufkit.progress import Progress, silent

_AT_ONCE = 4
_LARGEST_INDEX = 100_000_000
_SECONDS_BETWEEN_REPORTS = 0.1
_SECONDS_TO_STOP = 1.0


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


@dataclass(frozen=True, slots=True)
class Pulled:
    """What lies on this disk now: `path` is the model to open (a GGUF file or a checkpoint folder)."""

    name: str
    commit: str
    path: Path
    files: tuple[Path, ...]
    size: int
    fetched: int  # bytes that came over the network
    projector: Path | None
    other_projectors: tuple[str, ...]


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
        options.kind is Kind.ANY and quantization is None and _has_checkpoint(listing)
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
        if not gguf_models(listing) and _has_checkpoint(listing):
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


def _has_checkpoint(listing: Listing) -> bool:
    return listing.file("config.json") is not None and bool(listing.in_root(".safetensors", ".bin"))


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


def find_cached(name: ModelName, kind: Kind = Kind.ANY) -> Path | None:
    """Find a model in Hugging Face's cache without asking anybody; None when it, or a part of it, is not there.

    Raises:
        HubError: the cache holds several models that the name may mean.
    """
    listing = hub_cache.cached_listing(name.repository)
    if listing is None:
        return None
    try:
        plan = choose(listing, name.quantization, PullOptions(kind))
    except HubError:
        if kind is not Kind.CHECKPOINT and len(matching(gguf_models(listing), name.quantization)) > 1:
            raise
        return None
    return _opened_path(plan, hub_cache.snapshot_of(listing))


def pull(plan: PlannedPull, options: PullOptions | None = None, *, progress: Progress = silent) -> Pulled:
    """Fetch what is missing of a plan, and verify all of it, also what was here already.

    Raises:
        HubError: the hub does not send what it announced.
        OutputError: the disk is too small, or not writable.
        UnsafeError: a file would land outside of its folder.
    """
    options = options or PullOptions()
    listing = plan.listing
    root = options.local_folder or hub_cache.snapshot_of(listing)
    try:
        return _pulled(plan, options, root, progress)
    except OSError as error:
        raise OutputError(f"cannot write in {root}: {error.strerror}") from error


def _pulled(plan: PlannedPull, options: PullOptions, root: Path, progress: Progress) -> Pulled:
    listing = plan.listing
    described = [hub_transfer.described(listing, file) for file in plan.files]
    work = _Pull(listing, options.local_folder, progress, sum(file.size for file, _ in described))
    missing = work.missing(described)
    work.check_space(missing)
    work.fetch_all(missing)
    paths = work.show(described)
    return Pulled(
        str(listing.repository),
        listing.commit,
        _opened_path(plan, root),
        tuple(paths),
        sum(file.size for file, _ in described),
        work.received,
        root / plan.projector if plan.projector else None,
        plan.other_projectors,
    )


def _opened_path(plan: PlannedPull, root: Path) -> Path:
    return root / plan.model if plan.model else root


def _sleep(seconds: float, _: str) -> None:
    time.sleep(seconds)


Described = tuple[RemoteFile, str]


class _Pull:
    """One pull: where files go, and how many bytes there are of them, told from several threads."""

    def __init__(self, listing: Listing, local: Path | None, progress: Progress, total: int) -> None:
        self._listing, self._local, self._progress, self._total = listing, local, progress, total
        self._cache = hub_cache.cached_repository(listing.repository)
        self._lock = threading.Lock()
        self._done = 0
        self._waiting = ""
        self._stopped = threading.Event()
        self._failure: BaseException | None = None
        self.received = 0

    def target(self, file: RemoteFile, content_name: str) -> Path:
        """Where a content goes: a blob of the cache, or its path in the folder that was named."""
        if self._local is None:
            return self._cache.blob(content_name)
        target = self._local / file.path
        if not target.parent.resolve().is_relative_to(self._local.resolve()):
            raise UnsafeError(f"{file.path} would be written outside of {self._local}: a folder on its way is a link")
        return target

    def missing(self, described: Sequence[Described]) -> list[Described]:
        """Verify what is here; what is damaged or absent is missing."""
        missing = {}
        for file, content_name in described:
            target = self.target(file, content_name)
            if target.is_file() and hub_transfer.is_sound(target, file, self._verified):
                continue
            missing[target] = (file, content_name)
        self._done = self._total - sum(file.size for file, _ in missing.values())
        return list(missing.values())

    def check_space(self, missing: Sequence[Described]) -> None:
        """Refuse before the first byte what the disk cannot hold."""
        planned = []
        for file, content_name in missing:
            target = self.target(file, content_name)
            target.parent.mkdir(parents=True, exist_ok=True)
            planned.append(PlannedFile(target, max(0, file.size - hub_transfer.part_size(target, content_name))))
        check_space(planned)

    def fetch_all(self, missing: Sequence[Described]) -> None:
        """Fetch several files at once; the first failure, or Ctrl-C, ends it. What has arrived stays."""
        left = iter(missing)
        threads = [threading.Thread(target=self._work, args=(left,), daemon=True) for _ in missing[:_AT_ONCE]]
        for thread in threads:
            thread.start()
        try:
            while any(thread.is_alive() for thread in threads) and not self._failure:
                self._progress(self._waiting or "Downloading", min(self._done, self._total), self._total)
                threads[0].join(_SECONDS_BETWEEN_REPORTS)
        finally:
            # A thread that hangs in a read is not waited for: it only ever appends to its part, and stops there.
            self._stopped.set()
            until = time.monotonic() + _SECONDS_TO_STOP
            for thread in threads:
                thread.join(max(0.0, until - time.monotonic()))
        if self._failure:
            raise self._failure
        self._progress("Downloading", self._total, self._total)

    def _work(self, left: Iterator[Described]) -> None:
        try:
            while not self._stopped.is_set():
                with self._lock:
                    described = next(left, None)
                if described is None:
                    return
                self._fetch(*described)
        except BaseException as error:  # noqa: BLE001 - handed to the thread that waits
            self._failure = self._failure or error

    def _fetch(self, file: RemoteFile, content_name: str) -> None:
        target = self.target(file, content_name)
        received = hub_transfer.fetch(self._listing, file, target, content_name, report=self._add, wait=self._wait)
        with self._lock:
            self.received += received

    def show(self, described: Sequence[Described]) -> list[Path]:
        """Make the files appear under their names; return these."""
        if self._local is not None:
            return [self._local / file.path for file, _ in described]
        paths = [self._cache.show(self._listing.commit, *each) for each in described]
        self._cache.remember(self._listing.repository, self._listing.commit)
        return paths

    def _add(self, count: int) -> None:
        with self._lock:
            self._done += count
            self._waiting = ""
        self._check()

    def _verified(self, count: int) -> None:
        self._done += count
        self._progress("Verifying", min(self._done, self._total), self._total)

    def _wait(self, seconds: float, why: str) -> None:
        self._waiting = why
        self._stopped.wait(seconds)
        self._check()

    def _check(self) -> None:
        if self._stopped.is_set():
            raise HubError("the download was stopped")
