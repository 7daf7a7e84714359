"""A program that runs beside us until it ends or is ended, such as a server; `run` is for those that we wait for."""

import collections
import contextlib
import os
import signal
import subprocess
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from ggufkit.errors import LlamaCppError, MissingDependencyError
from ggufkit.llamacpp.run import EXPENDABLE, describe, die_with_parent
from ggufkit.undisturbed import undisturbed

_KEPT_LINES = 200
_FAILURE = ("error", "fail", "assert", "abort", "unable", "invalid", "exception")
_LONGEST_LINE = 1 << 16
_SECONDS_TO_END = 5.0


class Child:
    """A running program. It never outlives us: on Linux it is killed when the thread that started it ends.

    Attributes:
        argv: the command.
        pid: its process, which leads a process group of its own: Ctrl-C in our terminal does not reach it.
        ended: set when it has ended and all it wrote was read.
    """

    def __init__(
        self,
        argv: Sequence[str | Path],
        *,
        environment: Mapping[str, str] | None = None,
        on_line: Callable[[str], None] | None = None,
        on_end: Callable[[], None] | None = None,
        ignore_broken_pipes: bool = False,
    ) -> None:
        """Start the program. Callbacks are called from a thread of ours.

        Args:
            argv: the command.
            environment: all its variables; None: ours.
            on_line: takes each line of stdout and stderr.
            on_end: called once when it has ended.
            ignore_broken_pipes: let a write to a connection that is closed fail instead of ending the program.

        Raises:
            MissingDependencyError: there is no such program.
            LlamaCppError: it could not be started.
        """
        self.argv = tuple(str(argument) for argument in argv)
        self.ended = threading.Event()
        self._on_line, self._on_end = on_line, on_end
        self._last: collections.deque[str] = collections.deque(maxlen=_KEPT_LINES)
        try:
            with undisturbed():
                self._process = subprocess.Popen(
                    self.argv,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    env={**(os.environ if environment is None else environment), EXPENDABLE: "1"},
                    process_group=0,
                    restore_signals=not ignore_broken_pipes,  # Python itself ignores SIGPIPE, and a child inherits that
                    preexec_fn=die_with_parent(signal.SIGKILL),
                )
        except FileNotFoundError as error:
            raise MissingDependencyError(f"no such program: {error.filename}", hint="ggufkit doctor") from None
        except OSError as error:
            raise LlamaCppError(f"cannot start {self.argv[0]}: {error.strerror}", hint="ggufkit doctor") from error
        self.pid = self._process.pid
        threading.Thread(target=self._follow, name=f"output of {self.pid}", daemon=True).start()

    @property
    def name(self) -> str:
        """Return the name of the program."""
        return Path(self.argv[0]).name

    @property
    def status(self) -> int | None:
        """Return the exit status, negative for a signal; None while it runs."""
        return self._process.poll()

    def describe_end(self) -> str:
        """Say how it ended: `llama-server ended with signal SIGSEGV: …`, with what it wrote about that."""
        status = self.status
        if status is None:
            return f"{self.name} is running"
        why = reason(self._last)
        if status < 0 and not why:
            return f"{self.name} ended with {describe(status)}"  # what it wrote last has nothing to do with that
        last = " | ".join(list(self._last)[-2:]) or "it wrote nothing"
        return f"{self.name} ended with {describe(status)}: {why or last}"

    def end(self, seconds: float = _SECONDS_TO_END) -> None:
        """Ask it to end with SIGTERM, then force it and whatever it started; returns when it is gone."""
        for number, patience in ((signal.SIGTERM, seconds), (signal.SIGKILL, _SECONDS_TO_END)):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(patience)
        self.ended.wait(_SECONDS_TO_END)

    def _follow(self) -> None:
        stream = self._process.stdout
        if stream is not None:
            with stream:
                for line in iter(lambda: stream.readline(_LONGEST_LINE), b""):
                    text = line.decode("utf-8", "replace").rstrip()
                    if text:
                        self._last.append(text)
                        if self._on_line:
                            self._on_line(text)
        self._process.wait()
        self.ended.set()
        if self._on_end:
            self._on_end()


def reason(lines: Iterable[str]) -> str:
    """Find what a program wrote about why it ended: the first lines that tell of failure, if there are."""
    parts = [line.split(maxsplit=2) for line in lines]
    # llama.cpp's log has the time and a level in front: `0.00.012.345 E srv  load_model: …`
    stamped = [len(part) == 3 and part[0][:1].isdigit() and len(part[1]) == 1 for part in parts]
    bare = [(part[2] if is_stamped else " ".join(part)) for part, is_stamped in zip(parts, stamped, strict=True)]
    errors = [
        text for text, part, is_stamped in zip(bare, parts, stamped, strict=True) if is_stamped and part[1] == "E"
    ]
    telling = errors or [text for text in bare if any(word in text.lower() for word in _FAILURE)]
    return " | ".join(dict.fromkeys(telling[:2]))
