"""What `ggufkit generate --batch` says and shows while a file of prompts is answered."""

import contextlib
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from ggufkit.cli import _chat_screen, _output
from ggufkit.counting import counted
from ggufkit.inference.batch_engine import BatchEngine
from ggufkit.inference.batch_job import BatchOptions, BatchSummary, run_file
from ggufkit.inference.options import EngineOptions
from ggufkit.inference.prompts import PromptOptions

if TYPE_CHECKING:
    from ggufkit.cli._generate import Wishes

_BAD_LINES, _INTERRUPTED = 3, 130
_REPORTED = 20  # bad lines that are shown one by one


def run(model: Path, options: EngineOptions, wishes: "Wishes", prompts: PromptOptions) -> int:
    """Answer the file; return the exit code: 3 when lines were bad, 130 when it was interrupted."""
    from ggufkit.cli._generate import interruptible

    if wishes.batch is None or wishes.output is None:
        raise ValueError
    engines: list[BatchEngine] = []
    bad = 0

    def on_engine(engine: BatchEngine) -> None:
        engines.append(engine)
        for line in () if wishes.quiet else (*engine.placement.warnings, *engine.placement.lines):
            _chat_screen.tell(line)

    def on_bad(number: int, reason: str) -> None:
        nonlocal bad
        bad += 1
        if bad <= _REPORTED:
            _output.warn(f"{wishes.batch}, line {number}: {reason}")

    def stop() -> None:
        if not engines:
            raise KeyboardInterrupt
        engines[-1].interrupt()

    started = time.monotonic()
    batch = BatchOptions(
        prompts=prompts,
        sampling=wishes.sampling,
        max_tokens=wishes.most_tokens,
        stop=wishes.stop,
        top_scores=wishes.top_scores,
        sequences=wishes.parallel,
        again=wishes.again,
    )
    try:
        with interruptible(stop), _output.progress_bar(quiet=wishes.quiet) as progress:
            summary = run_file(
                model,
                Path("/dev/stdin") if str(wishes.batch) == "-" else wishes.batch,
                wishes.output,
                options,
                batch,
                progress=progress,
                on_engine=on_engine,
                on_bad=on_bad,
            )
    except KeyboardInterrupt:
        _chat_screen.tell("interrupted; the same command goes on from here")
        return _INTERRUPTED
    _report(wishes, summary, time.monotonic() - started)
    return _BAD_LINES if summary.answered < summary.prompts else 0


def _report(wishes: "Wishes", summary: BatchSummary, seconds: float) -> None:
    if len(summary.bad) > _REPORTED:
        _output.warn(f"{counted(len(summary.bad) - _REPORTED, 'more bad line')}: {wishes.output} has the reasons")
    rate = summary.generated_tokens / seconds if seconds > 0 else 0.0
    if wishes.json:
        _output.print_json(
            {
                "output": str(wishes.output),
                "prompts": summary.prompts,
                "answered": summary.answered,
                "resumed": summary.resumed,
                "bad": [{"line": number, "error": reason} for number, reason in summary.bad],
                "prompt_tokens": summary.prompt_tokens,
                "generated_tokens": summary.generated_tokens,
                "parallel": summary.sequences,
                "context_size": summary.context_size,
                "seconds": seconds,
                "tokens_per_second": rate,
            }
        )
        return
    if not wishes.quiet:
        resumed = f", {summary.resumed} of them by an earlier run" if summary.resumed else ""
        _chat_screen.tell(
            f"{summary.answered} of {counted(summary.prompts, 'prompt')} answered{resumed};"
            f" {counted(summary.generated_tokens, 'token')}, {rate:.1f} per second,"
            f" {counted(summary.sequences, 'prompt')} at once"
        )
    with contextlib.suppress(BrokenPipeError):
        print(wishes.output, file=sys.stdout)
