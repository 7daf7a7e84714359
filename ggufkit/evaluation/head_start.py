"""What an evaluation lets its child do while it still loads what it needs itself: a tenth of a second, in both."""

import contextvars
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ggufkit.errors import GgufkitError
from ggufkit.evaluation.child_process import give_up
from ggufkit.evaluation.likelihood.running import Running
from ggufkit.evaluation.likelihood.tokenizing import token_files


@dataclass(frozen=True, slots=True)
class HeadStart:
    """Texts that are being cut into tokens by a model's vocabulary."""

    model: Path
    texts: tuple[Path, ...]
    running: Running
    _files: Future[list[Path]]

    def tokens_of(self, model: Path, texts: Sequence[Path], running: Running) -> list[Path] | None:
        """Wait for the files of tokens, which are the caller's; None where others were asked for, or it failed."""
        try:
            files = self._files.result()
        except (GgufkitError, OSError):  # whoever does it now will be told, where errors are expected
            return None
        return files if (model, tuple(texts), running) == (self.model, self.texts, self.running) else None


@contextmanager
def head_start(
    model: Path, texts: Sequence[Path], running: Running, *, first: Callable[[], object] = lambda: None
) -> Iterator[HeadStart]:
    """Let the one child for all cut texts into tokens, after `first`, while the block begins.

    `first` may ask that child as well; nobody else may until the block has called `tokens_of`. Where the block is left
    by an exception, the child is killed rather than waited for.

    Raises:
        OutputError: there is no room for temporary files.
    """
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(1) as beside:

        def cut() -> list[Path]:
            first()
            return token_files(model, texts, Path(folder), running)

        # The thread lasts as long as the block: a child that it has to start anew dies with it.
        files = beside.submit(contextvars.copy_context().run, cut)
        try:
            yield HeadStart(model, tuple(texts), running, files)
        except BaseException:
            while not files.done():  # again and again: what dies may just be about to be started anew
                give_up()
                wait([files], 0.05)
            raise
