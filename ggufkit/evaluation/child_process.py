"""Running one of our children that answer a request file, with its errors as errors of ours."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

from ggufkit import errors
from ggufkit.errors import GgufkitError, LlamaCppError
from ggufkit.llamacpp.run import run


def refusal(error: GgufkitError) -> str:
    """Write an error for the parent; of a kind that only a room of ours knows, the nearest that all know."""
    kind = next(each.__name__ for each in type(error).__mro__ if hasattr(errors, each.__name__))
    return json.dumps({"message": str(error), "hint": error.hint, "kind": kind})


def ask(module: str, request: Path, model: str, on_line: Callable[[str], None] | None = None) -> None:
    """Let `module.main` do what a request file asks for; a refusal lies beside it as `.error.json`.

    Raises:
        GgufkitError: what the child refused, of the same kind.
        LlamaCppError: it died; of `model`.
    """
    answer = request.with_suffix(".error.json")
    answer.unlink(missing_ok=True)
    try:
        run([sys.executable, "-P", "-c", f"from {module} import main; main()", request], on_line=on_line)
    except LlamaCppError as error:
        if answer.exists():
            told = json.loads(answer.read_text())
            kind = getattr(errors, told["kind"], GgufkitError)
            raise kind(told["message"], hint=told["hint"]) from None
        raise LlamaCppError(f"{model}: {str(error).partition(' (command: ')[0]}") from None
