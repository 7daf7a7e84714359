"""Looking at what llama-quantize has written while it writes on: a core is idle whenever it waits for the disk."""

import contextlib
import queue
import threading
from pathlib import Path
from typing import Self

from ggufkit.errors import GgufkitError
from ggufkit.files import begin_writing_back
from ggufkit.gguf_file.reader import TensorInfo, read_header
from ggufkit.quantization.plan import QuantizationPlan


class Follower:
    """A thread that looks at one tensor after the other of a file that grows, where the plan says that they will be.

    Split outputs and those whose type has no number (`COPY`: its header says what the source's says) are not laid out
    here, and none of their tensors is looked at.

    `sound` are those whose blocks are all finite. Whoever reads the finished header compares, and looks at those that
    are not among them: nothing is decided here.
    """

    def __init__(self, plan: QuantizationPlan, path: Path) -> None:
        self.sound: set[TensorInfo] = set()
        self._plan = plan
        self._path = path
        self._written: queue.SimpleQueue[int | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        if self._plan.type.number >= 0 and not self._plan.options.keep_split:
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._written.put(None)
        if self._thread.ident is not None:
            self._thread.join()

    def begun(self, number: int) -> None:
        """Take note that the tensor of this number, counted from 1, has been begun.

        The one before it may still be on its way through a buffer; what comes before that is in the file.
        """
        self._written.put(max(0, number - 2))

    def _run(self) -> None:
        # Here, because they load numpy and libggml, for which llama-quantize need not wait.
        from ggufkit.quantization.blocks import check_blocks
        from ggufkit.quantization.direct.layout import lay_out
        from ggufkit.quantization.importance import load_importance

        options = self._plan.options
        with contextlib.suppress(GgufkitError, OSError):  # the look afterwards has better words for it
            matrix = load_importance(options.imatrix) if options.imatrix else None
            if matrix is not None:
                matrix = matrix.only(options.include_weights, options.exclude_weights)
            placed = lay_out(read_header(self._plan.source), self._plan, matrix).tensors
            tensors = [TensorInfo(t.name, t.shape, t.type, t.offset, t.size) for t in placed]
            seen = 0
            with self._path.open("rb") as file:  # it is there before llama-quantize starts
                while (written := self._written.get()) is not None:
                    for tensor in tensors[seen:written]:
                        check_blocks(self._path, [tensor], threads=1, called=self._path)
                        self.sound.add(tensor)
                        begin_writing_back(file.fileno(), tensor.offset, tensor.size)
                    seen = max(seen, written)
