"""Reading lines as people expect it: editing, a history that outlives the program, and Tab for commands and files.

The history is `$GGUFKIT_CHAT_HISTORY`, else `$XDG_STATE_HOME/ggufkit/chat_history` (`~/.local/state/...`); nobody else
may read it. `GGUFKIT_CHAT_HISTORY=none` keeps none.
"""

import contextlib
import glob
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Self

from ggufkit.homes import expanded, home_folder

_LONGEST_HISTORY = 1000  # lines


def history_file() -> Path | None:
    """Return where the history is kept; None when none is wanted."""
    named = os.environ.get("GGUFKIT_CHAT_HISTORY")
    if named:
        return None if named == "none" else expanded(named)
    state = Path(os.environ.get("XDG_STATE_HOME", ""))
    return (state if state.is_absolute() else home_folder() / ".local/state") / "ggufkit" / "chat_history"


class LineEditor:
    """Reads lines with readline where there is one; a context manager, which keeps the history at its end."""

    def __init__(self) -> None:
        self._readline: ModuleType | None = None
        self._new = 0
        self._history = history_file()
        self.commands: Sequence[str] = ()
        self.file_commands: Sequence[str] = ()
        if sys.stdin.isatty() and sys.stdout.isatty():
            with contextlib.suppress(ImportError):
                import readline

                self._readline = readline

    def __enter__(self) -> Self:
        if line := self._readline:
            line.set_completer(self._complete)
            line.set_completer_delims(" \t\n")
            line.parse_and_bind("tab: complete")
            if self._history:
                with contextlib.suppress(OSError):
                    line.read_history_file(self._history)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Add the new lines to the history: another chat may have added its own meanwhile."""
        line, path = self._readline, self._history
        if not (line and path and self._new):
            return
        with contextlib.suppress(OSError):  # a chat is not in vain because its history cannot be kept
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600))
            path.chmod(0o600)
            new = min(self._new, line.get_current_history_length())
            if hasattr(line, "append_history_file"):
                line.append_history_file(new, path)
            else:
                line.write_history_file(path)
            _shorten(path)

    @property
    def can_prefill(self) -> bool:
        """Tell whether a line can be given to be changed."""
        return self._readline is not None

    def read(self, prompt: str, prefill: str = "") -> str:
        """Read a line, which begins with `prefill`. Raises EOFError at the end of input."""
        if not sys.stdout.isatty():
            # stdout goes elsewhere and is for replies only: input() would write the prompt there.
            print(prompt, end="", file=sys.stderr, flush=True)
            line = sys.stdin.readline()
            if not line:
                raise EOFError
            return line.rstrip("\n")
        if self._readline and prefill:
            self._readline.set_startup_hook(lambda: self._insert(prefill))
        before = self._readline.get_current_history_length() if self._readline else 0
        try:
            return input(prompt)
        finally:
            if self._readline:
                self._readline.set_startup_hook(None)
                self._new += self._readline.get_current_history_length() - before

    def _insert(self, text: str) -> None:
        if self._readline:
            self._readline.insert_text(text)

    def _complete(self, text: str, state: int) -> str | None:
        """Offer commands at the beginning of a line, and files after those that take one."""
        begun = self._readline.get_line_buffer().lstrip() if self._readline else text
        word, space, _ = begun.partition(" ")
        if not space:
            found = [f"{name} " for name in self.commands if name.startswith(text)] if text else []
        elif word in self.file_commands:
            paths = sorted(glob.glob(glob.escape(os.path.expanduser(text)) + "*"))  # noqa: PTH111, PTH207 - of any text
            found = [f"{path}/" if Path(path).is_dir() else path for path in paths]
        else:
            found = []
        return found[state] if state < len(found) else None


def _shorten(path: Path) -> None:
    lines = path.read_bytes().splitlines(keepends=True)
    if len(lines) > 2 * _LONGEST_HISTORY:
        path.write_bytes(b"".join(lines[-_LONGEST_HISTORY:]))
