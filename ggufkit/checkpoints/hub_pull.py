"""From a name on the hub to files on this disk: choose, check the space, fetch, verify, show."""

import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ggufkit.checkpoints import hub_cache, hub_transfer
from ggufkit.checkpoints.hub import Listing, ModelName, RemoteFile, model_name
from ggufkit.checkpoints.hub_plan import Kind, PlannedPull, PullOptions, choose, plan_pull
from ggufkit.checkpoints.hub_selection import gguf_models, matching
from ggufkit.errors import HubError, OutputError, UnsafeError
from ggufkit.files import PlannedFile, check_space
from ggufkit.progress import Progress, silent

__all__ = ["Kind", "PlannedPull", "PullOptions", "Pulled", "choose", "find_cached", "plan_pull", "pull", "pull_model"]

_AT_ONCE = 4
_SECONDS_BETWEEN_REPORTS = 0.1
_SECONDS_TO_STOP = 1.0


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
    without_hash: tuple[str, ...] = ()  # files of which the hub says no hash: their sizes alone are right


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


def pull_model(
    name: str, kind: Kind = Kind.ANY, *, options: PullOptions | None = None, progress: Progress = silent
) -> Path:
    """Return the path of `owner/repo[:QUANT][@revision]`: in the cache, or fetched when it is not there.

    `options` say more about what is wanted than `kind`, and are always looked up on the hub.

    Raises:
        HubError: the name is none, the repository cannot be read, or what is wanted of it is missing or ambiguous.
        OutputError: the disk is too small, or not writable.
    """
    found = model_name(name)
    if found is None:
        raise HubError(f"{name!r} is no name of a model on the hub", hint="its form is owner/repo[:QUANT][@revision]")
    if options is None and (cached := find_cached(found, kind)):
        return cached
    options = options or PullOptions(kind)
    return pull(plan_pull(found, options), options, progress=progress).path


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
        tuple(file.path for file, _ in described if not file.sha256 and not file.git_id),
    )


def _opened_path(plan: PlannedPull, root: Path) -> Path:
    return root / plan.model if plan.model else root


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
