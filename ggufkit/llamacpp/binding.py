"""Loading llama-cpp-python on top of our own build, with its log caught instead of printed."""

import collections
import contextlib
import importlib.machinery
import importlib.util
import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from ggufkit.errors import LlamaCppError, MissingDependencyError
from ggufkit.llamacpp import find, pin

_PACKAGE = "llama_cpp"
_LIBRARY_PATH = "LLAMA_CPP_LIB_PATH"
_KEPT_LINES = 1000

_loading = threading.Lock()
_module: ModuleType | None = None
_log: collections.deque[str] = collections.deque(maxlen=_KEPT_LINES)
_unfinished = ""
_taken = 0
_kept_alive: list[Any] = []  # C code holds pointers to these for as long as the process lives


def load() -> ModuleType:
    """Import `llama_cpp` so that it uses the found build; every later call returns the same module.

    From then on llama.cpp's log goes to `log_lines`, and loading models does not redirect stdout and stderr.

    Raises:
        MissingDependencyError: the binding or the build is not installed, or the binding has another version.
        LlamaCppError: the libraries cannot be loaded.
    """
    global _module
    with _loading:
        if _module is None:
            _check_version()
            _module = _import(find.find().lib)
        return _module


def load_declarations() -> ModuleType:
    """Import only the declarations of libllama's functions, in a tenth of the time; for processes that need no more.

    What a package imports on its own account is passed over: `llama_cpp` would bring numpy, jinja2 and all its classes.
    From then on `load` returns the same; where it was called before, its module is returned.

    Raises:
        As `load`.
    """
    global _module
    with _loading:
        if _module is None:
            _check_version()
            _module = _import_declarations(find.find().lib)
        return _module


def installed_version() -> str | None:
    """Return the version of the llama-cpp-python in this environment, without importing it; None when absent."""
    package, wanted = pin.pin().package, pin.pin().version
    found = importlib.machinery.PathFinder.find_spec(_PACKAGE)  # even where its declarations are loaded without it
    for place in (found and found.submodule_search_locations) or ():
        if Path(place).with_name(f"{package.replace('-', '_')}-{wanted}.dist-info").is_dir():
            return wanted
    from importlib import metadata  # here, for it takes longer to import than all that is wanted of llama.cpp

    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def check_installed() -> None:
    """Make sure that `load` would find what it needs, without loading it.

    Raises:
        MissingDependencyError: the binding or the build is not installed, or the binding has another version.
    """
    _check_version()
    find.find()


def log_lines(since: int = 0) -> list[str]:
    """Return the last lines (at most 1000) that llama.cpp logged since it was loaded, or since a `log_position`."""
    kept = list(_log)
    lines = kept[max(0, len(kept) - (_taken - since)) :]
    return [*lines, _unfinished] if _unfinished else lines


def log_position() -> int:
    """Return how many lines were logged so far, for `log_lines`."""
    return _taken


def log_tail(count: int = 20) -> str:
    """Return the last `count` logged lines as one text, to be shown when something failed."""
    return "\n".join(log_lines()[-count:])


def _check_version() -> None:
    wanted, found = pin.pin().version, installed_version()
    if found is None:
        raise MissingDependencyError(f"{pin.pin().package} {wanted} is not installed", hint="ggufkit setup")
    if found != wanted:
        raise MissingDependencyError(
            f"{pin.pin().package} is version {found}, but this ggufkit and its llama.cpp need {wanted}",
            hint="ggufkit setup",
        )


def _import(libraries: Path) -> ModuleType:
    with _environment(_LIBRARY_PATH, str(libraries)):
        try:
            import llama_cpp
            import llama_cpp._utils
        except (ImportError, OSError, RuntimeError, AttributeError) as error:
            raise LlamaCppError(
                f"the llama.cpp libraries in {libraries} cannot be loaded: {error}", hint="ggufkit doctor"
            ) from error
    _catch_log(llama_cpp)
    _leave_streams_alone(llama_cpp._utils.suppress_stdout_stderr)  # noqa: SLF001 - there is no public switch
    module: ModuleType = llama_cpp
    return module


def _import_declarations(libraries: Path) -> ModuleType:
    package = importlib.util.find_spec(_PACKAGE)
    hollow = ModuleType(_PACKAGE)
    hollow.__path__ = list(package.submodule_search_locations or ()) if package else []
    sys.modules[_PACKAGE] = hollow
    with _environment(_LIBRARY_PATH, str(libraries)):
        try:
            module: Any = importlib.import_module(f"{_PACKAGE}.llama_cpp")
        except (ImportError, OSError, RuntimeError, AttributeError) as error:
            raise LlamaCppError(
                f"the llama.cpp libraries in {libraries} cannot be loaded: {error}", hint="ggufkit doctor"
            ) from error
    _catch_log(module)
    module.llama_cpp = module  # as the package has it
    found: ModuleType = module
    return found


def _catch_log(module: Any) -> None:
    callback = module.llama_log_callback(_take)
    _kept_alive.append(callback)
    module.llama_log_set(callback, None)


def _take(_level: int, text: bytes | None, _user_data: Any) -> None:
    """Collect one piece of log; a line may come in several. Called by C, from any thread: must not raise."""
    global _unfinished, _taken
    *lines, _unfinished = (_unfinished + (text or b"").decode("utf-8", "replace")).split("\n")
    _log.extend(lines)
    _taken += len(lines)


def _leave_streams_alone(redirection: Any) -> None:
    """Make the binding's redirection of descriptors 1 and 2 do nothing: it would swallow our progress and errors."""
    redirection.__enter__ = lambda self: self
    redirection.__exit__ = lambda *_: None


@contextlib.contextmanager
def _environment(name: str, value: str) -> Iterator[None]:
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before
