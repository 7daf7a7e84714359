"""What an evaluation lets its child do while it still loads what it needs itself: a tenth of a second, in both."""

import contextvars
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from ggufkit.evaluation.child_process import give_up
from ggufkit.evaluation.likelihood.running import Running
from ggufkit.evaluation.likelihood.tokenizing import token_files
from ggufkit.undisturbed import undisturbed


@dataclass(frozen=True, slots=True)
class HeadStart:
    """Texts that are being cut into tokens by a model's vocabulary."""

    model: Path
    texts: tuple[Path, ...]
    running: Running
    _files: Future[list[Path]]

    def tokens_of(self, model: Path, texts: Sequence[Path], running: Running) -> list[Path] | None:
        """Wait for the files of tokens, which are the caller's; None where others were asked for.

        None as well where a temporary file could not be written: there may be room elsewhere.

        Raises:
            As `token_files`.
        """
        try:
            files = self._files.result()
        except OSError:
            return None
        return files if (model, tuple(texts), running) == (self.model, self.texts, self.running) else None


@contextmanager
def head_start(
    model: Path, texts: Sequence[Path], running: Running, *, first: Callable[[], object] = lambda: None
) -> Iterator[HeadStart | None]:
    """Let the one child for all cut texts into tokens, after `first`, while the block begins: within `one_for_all`.

    `first` may ask that child as well; nobody else may until the block has called `tokens_of`. Where the block is left
    by an exception, the child is killed rather than waited for. Without a folder for temporary files only `first` is
    done, at once.
    """
    with ExitStack() as stack:
        try:
            folder = stack.enter_context(tempfile.TemporaryDirectory())
        except OSError:
            first()
            yield None
            return

        def cut() -> list[Path]:
            first()
            return token_files(model, texts, Path(folder), running)

        # The thread lasts as long as the block: a child that it has to start anew dies with it.
        beside = stack.enter_context(ThreadPoolExecutor(1))
        files: Future[list[Path]] | None = None
        try:
            with undisturbed():
                files = beside.submit(contextvars.copy_context().run, cut)
            yield HeadStart(model, tuple(texts), running, files)
        except BaseException:
            while files is not None and not files.done():  # what dies may just be about to be started anew
                give_up()
                wait([files], 0.05)
            raise
