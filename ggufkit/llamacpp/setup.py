"""Setting up llama.cpp and its Python binding: each step is done once, kept in a cache, and skipped when it is done."""

import contextlib
import fcntl
import importlib
import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from ggufkit.errors import UsageError
from ggufkit.files import NO_LOCKS
from ggufkit.llamacpp import binding, build, find, packages, run, sdist, trees
from ggufkit.llamacpp.build import BuildOptions
from ggufkit.llamacpp.pin import Pin, pin
from ggufkit.progress import Progress, silent

# Measured for 0.3.36, rounded up: download, unpacked tree, build folder for the CPU.
_SDIST_BYTES = 80_000_000
_SOURCE_BYTES = 200_000_000
_BUILD_BYTES = 200_000_000
_GPU_BUILD_BYTES = 3_000_000_000

State = Literal["done", "there", "needed"]


@dataclass(frozen=True, slots=True)
class SetupOptions:
    """What may be chosen about a set-up."""

    build: BuildOptions = field(default_factory=BuildOptions)
    sdist: Path | None = None
    force: bool = False
    dry_run: bool = False


@dataclass(frozen=True, slots=True)
class Step:
    """One step: `done` now, `there` already, or `needed` (in a dry run)."""

    name: str
    state: State
    detail: str
    seconds: float


@dataclass(frozen=True, slots=True)
class SetupResult:
    """What was done, and where it is."""

    steps: tuple[Step, ...]
    version: str
    commit: str
    folder: Path
    seconds: float


def set_up(
    options: SetupOptions = SetupOptions(),
    *,
    progress: Progress = silent,
    on_step: Callable[[Step], None] = lambda _: None,
) -> SetupResult:
    """Build the pinned llama.cpp, put it in place and install its Python binding.

    A plain call accepts any build of the pinned version for this machine, with whatever backends it was made.

    Args:
        options: what to build and how.
        progress: called during the long steps.
        on_step: called after every step.

    Raises:
        MissingDependencyError: no compiler, no pip, or a Python that must not be changed.
        LlamaCppError: a download or the build failed.
        UnsafeError: the source distribution is not the pinned one.
        OutputError: no space or no permission.
    """
    return _SetUp(options, progress, on_step).run()


def clean(*, dry_run: bool = False) -> tuple[list[Path], int]:
    """Remove the build, the source tree and everything in the cache; return the folders and their bytes."""
    cache = find.cache_folder()
    folders = [find.home() / name for name in ("dist", "source")]
    folders += [cache / name for name in ("llama.cpp", "downloads", "wheels", "tools")]
    found = [folder for folder in folders if folder.exists()]
    size = sum(trees.size_of(folder) for folder in found)
    if not dry_run:
        for folder in found:
            shutil.rmtree(folder)
    return found, size


class _SetUp:
    """One run: the places, and a method for each step."""

    def __init__(self, options: SetupOptions, progress: Progress, on_step: Callable[[Step], None]) -> None:
        self.options = options
        self.progress = progress
        self.on_step = on_step
        self.pin: Pin = pin()
        self.home = find.home()
        self.cache = find.cache_folder()
        self.builds = self.cache / "llama.cpp" / self.pin.version
        self.steps: list[Step] = []
        self.given_sdist = options.sdist

    def run(self) -> SetupResult:
        started = time.monotonic()
        if os.environ.get(find.VARIABLE) and (self.options.build.definitions() or self.options.force):
            raise UsageError(f"{find.VARIABLE} is set, so nothing would be built", hint=f"unset {find.VARIABLE}")
        needed = self._needed()
        if needed and not self.options.dry_run:
            self._check_room(needed)
            if "llama.cpp" in needed:  # what would stop the build later is better said before the download
                build.find_compiler()
                build.check_backends(self.options.build)
            with self._alone() as lock:
                for folder in (self.home, self.builds, self.cache / "downloads", self.cache / "wheels"):
                    trees.remove_leftovers(folder)
                # Another set-up may have done it while we waited.
                needed = self._needed()
                self._do("source", needed, self._install_source)
                self._do("llama.cpp", needed, lambda: self._install_build(lock))
                self._do("binding", needed, self._install_binding)
            if needed:
                self._do("check", {"check": ""}, self._check)
        else:
            for name in ("source", "llama.cpp", "binding"):
                self._note(Step(name, "needed" if name in needed else "there", needed.get(name, ""), 0.0))
        seconds = time.monotonic() - started
        return SetupResult(tuple(self.steps), self.pin.version, self.pin.commit, self.home, seconds)

    def _needed(self) -> dict[str, str]:
        """Map the steps that must be done to what will be done."""
        needed = {}
        if find.read_stamp(self.home / "source").get("version") != self.pin.version:
            needed["source"] = f"unpack llama.cpp {self.pin.commit} as {self.home / 'source'}"
        if reason := self._why_build():
            needed["llama.cpp"] = f"build {self.home / 'dist'} ({reason})"
        if binding.installed_version() != self.pin.version:
            needed["binding"] = f"install {self.pin.package} {self.pin.version} into {sys.prefix}"
        return needed

    def _why_build(self) -> str | None:
        if os.environ.get(find.VARIABLE):
            find.find()  # refuses a folder that holds none
            return None
        stamp = find.read_stamp(self.home / "dist")
        made_with = tuple(stamp.get("definitions", ()))
        wanted = self.options.build.definitions()
        if self.options.force:
            return "asked for"
        if not stamp:
            return "not there yet"
        if stamp.get("recipe") != build.recipe(self.pin, BuildOptions(cmake_args=made_with)):
            return "made by another version"
        if stamp.get("machine") != build.machine_identity():
            return "made for another CPU"
        if wanted and wanted != made_with:
            return "made with other options"
        return None

    def _do(self, name: str, needed: dict[str, str], action: Callable[[], str]) -> None:
        started = time.monotonic()
        if name in needed:
            detail = action()
            self._note(Step(name, "done", detail, time.monotonic() - started))
        else:
            self._note(Step(name, "there", "", 0.0))

    def _note(self, step: Step) -> None:
        self.steps.append(step)
        self.on_step(step)

    def _check_room(self, needed: dict[str, str]) -> None:
        gpu = set(self.options.build.backends) & {"cuda", "rocm", "vulkan"}
        size = _SDIST_BYTES if not (self.cache / "downloads").exists() else 0
        if "source" in needed or "llama.cpp" in needed:
            size += 0 if (self.builds / "source").exists() else _SOURCE_BYTES
        if "llama.cpp" in needed:
            size += _GPU_BUILD_BYTES if gpu else _BUILD_BYTES
        trees.check_room(self.cache, size)
        if {"source", "llama.cpp"} & needed.keys():
            trees.check_room(self.home, _SOURCE_BYTES)

    def _sdist(self) -> Path:
        """Return the verified source distribution; downloaded at most once, and only if a step asks for it."""
        self.given_sdist = sdist.fetch(
            self.pin, self.cache / "downloads" / self.pin.version, given=self.given_sdist, progress=self.progress
        )
        return self.given_sdist

    def _source(self) -> Path:
        """Return the unpacked tree in the cache."""
        source = self.builds / "source"
        if not source.is_dir():
            sdist.unpack(self._sdist(), self.pin, source, progress=self.progress)
        return source

    def _install_source(self) -> str:
        source = self._source()
        with trees.whole_folder(self.home / "source") as folder:
            trees.link_tree(source, folder)
            _write_stamp(folder, {"version": self.pin.version, "commit": self.pin.commit})
        return str(self.home / "source")

    def _install_build(self, lock: int) -> str:
        options = self.options.build
        compiler = build.find_compiler()
        key = build.cache_key(self.pin, options, build.machine_identity(), compiler.identity)
        finished = self.builds / key
        from_cache = bool(find.read_stamp(finished)) and not self.options.force
        if not from_cache:
            build.compile_llama_cpp(
                self.pin,
                self._source(),
                finished,
                options,
                compiler,
                log=self.builds / f"{key}.log",
                pass_fds=(lock,),
                progress=self.progress,
            )
        with trees.whole_folder(self.home / "dist") as folder:
            trees.link_tree(finished, folder)
        return f"{self.home / 'dist'} ({'taken from the cache' if from_cache else 'compiled'})"

    def _install_binding(self) -> str:
        if packages.is_externally_managed():
            raise packages.externally_managed(f"install {self.pin.package}")
        self.progress("Installing the binding", 0, 0, "steps")
        pip_options: list[str | Path] = ["install", "--quiet"]
        packages.pip([*pip_options, self._wheel()], purpose=f"install {self.pin.package}")
        importlib.invalidate_caches()
        return f"{self.pin.package} {self.pin.version} in {sys.prefix}"

    def _wheel(self) -> Path:
        """Return the binding's wheel, made once from the verified source distribution, without a second compile."""
        folder = self.cache / "wheels" / self.pin.version
        if found := next(folder.glob("*.whl"), None):
            return found
        sdist_file = self._sdist()
        with trees.whole_folder(folder) as fresh:
            arguments: list[str | Path] = ["wheel", "--quiet", "--no-deps", "--wheel-dir", fresh, sdist_file]
            packages.pip(
                arguments,
                purpose=f"make a wheel of {self.pin.package}",
                environment={"CMAKE_ARGS": "-DLLAMA_BUILD=OFF -DLLAVA_BUILD=OFF"},
            )
        return next(folder.glob("*.whl"))

    def _check(self) -> str:
        """Load the libraries through the binding in a process of its own, so that a broken build cannot end ours."""
        code = "from ggufkit.llamacpp import binding; print(binding.load().llama_print_system_info().decode())"
        done = run.run([sys.executable, "-P", "-c", code])
        return done.stdout.strip().rstrip("| ")

    @contextlib.contextmanager
    def _alone(self) -> Iterator[int]:
        """Hold the one right to set up with this cache; wait for whoever holds it.

        The build inherits the descriptor, so a compiler that outlives a killed set-up still keeps the next one out.
        """
        self.cache.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self.cache / "setup.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                self.progress("Waiting for another set-up", 0, 0, "steps")
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            except OSError as error:
                if error.errno not in NO_LOCKS:
                    raise
            yield descriptor
        finally:
            os.close(descriptor)


def _write_stamp(folder: Path, content: dict[str, Any]) -> None:
    (folder / find.STAMP).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
