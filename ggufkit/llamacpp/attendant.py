"""A program that stays and does one request after another: what it has loaded for one is there for the next."""

import contextlib
import subprocess
from collections.abc import Callable, Sequence
from typing import Self

from ggufkit.llamacpp.run import Output, failure, kill, start

ENDED = "ggufkit: request ended:"  # what the program answers; behind it the status, and LEAVES where that was the last
LEAVES = "leaves"
_SECONDS_TO_LEAVE = 2.0


class Attendant:
    """A program that reads requests from its stdin, a line each, and writes a line after each: `ENDED`, and a status.

    It never outlives us. One that died, or takes no more requests, is started anew for the next. Not for use by several
    threads at once. Use it as a context manager.
    """

    def __init__(self, command: Sequence[str]) -> None:
        """Start the program, so that it is ready when it is asked.

        Raises:
            MissingDependencyError: there is no such program.
            LlamaCppError: it could not be started.
        """
        self._command = tuple(command)
        self._on_line: Callable[[str], None] | None = None
        self._answer: list[str] | None = None
        self._asked = self._released = False
        self._output = Output(self._take, keeps_stdout=False)
        self._process: subprocess.Popen[bytes] | None = start(self._command, takes_input=True)

    def ask(self, request: str, on_line: Callable[[str], None] | None = None) -> None:
        """Hand over a request, which holds no line ends, and wait until it is done.

        `on_line` is called with every line that the program writes meanwhile. On any exception the program is killed.

        Raises:
            LlamaCppError: it died (a DiedError: by a signal), or gave another status than 0.
        """
        if self._released:
            self.close()
        process = self._process
        if process is None:
            self._output = Output(self._take, keeps_stdout=False)
            process = self._process = start(self._command, takes_input=True)
        self._on_line, self._answer, self._asked = on_line, None, True
        self._output.last.clear()
        self._output.last_errors.clear()
        try:
            if process.stdin is not None:
                with contextlib.suppress(BrokenPipeError):  # it is dead; the end of its output will say so
                    process.stdin.write(f"{request}\n".encode())
                    process.stdin.flush()
            self._output.follow(process, until=lambda: self._answer is not None)
        except BaseException:
            kill(process)
            self._forget(process)
            raise
        if self._answer is None:
            status = process.wait() or 1
            self._forget(process)
        else:
            status = int(self._answer[0])
            if LEAVES in self._answer:
                self.close()
        if status:
            raise failure(self._command, status, self._output)

    def release(self) -> None:
        """Let the program end, and do not wait for that; a request that comes nevertheless starts another one.

        One that was never asked is left as it is.
        """
        process = self._process
        if process is not None and process.stdin is not None and self._asked:
            self._released = True
            with contextlib.suppress(BrokenPipeError):
                process.stdin.close()

    def give_up(self) -> None:
        """Kill the program while another thread waits for its answer, which gets a DiedError instead."""
        process = self._process
        if process is not None:
            process.kill()

    def close(self) -> None:
        """Let the program end, which it does when nobody can ask it any more; a second call does nothing.

        One that was never asked is killed: it has nothing to bring to an end.
        """
        process = self._process
        if process is None:
            return
        if process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                process.stdin.close()
        try:
            process.wait(_SECONDS_TO_LEAVE if self._asked else 0)
        except subprocess.TimeoutExpired:
            kill(process)
        self._forget(process)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _take(self, line: str) -> None:
        if line.startswith(ENDED):
            self._answer = line.removeprefix(ENDED).split()
        elif self._on_line:
            self._on_line(line)

    def _forget(self, process: subprocess.Popen[bytes]) -> None:
        for stream in (process.stdin, process.stdout, process.stderr):
            if stream is not None:
                with contextlib.suppress(BrokenPipeError):
                    stream.close()
        self._process = None
        self._released = False
