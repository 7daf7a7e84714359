"""llama.cpp's own converter, run in a child process, for the architectures that we have no spec for.

It executes Python that it finds in the model folder (transformers' `trust_remote_code`), so folders that bring code
are refused unless the user says otherwise.
"""

import ast
import difflib
import functools
import importlib.util
import json
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ggufkit.errors import (
    CheckpointError,
    LlamaCppError,
    MissingDependencyError,
    UnsafeError,
    UnsupportedArchitectureError,
)
from ggufkit.llamacpp.find import find_source
from ggufkit.llamacpp.run import run
from ggufkit.progress import Progress, silent

_SCRIPT = "convert_hf_to_gguf.py"
_PACKAGES = ("torch", "transformers")
_FILES_THAT_NAME_CODE = ("config.json", "tokenizer_config.json", "processor_config.json", "preprocessor_config.json")
_WRITING = re.compile(r"^Writing:\s*(\d+)%")
_EXCEPTION = re.compile(r"^(?:\w+\.)*\w*(?:Error|Exception|Interrupt)\b.*")
_UNSUPPORTED = re.compile(r"Model (\S+) is not supported|Architecture '([^']+)' not supported")
_OFFLINE = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "PYTHONDONTWRITEBYTECODE": "1", "PYTHONUNBUFFERED": "1"}


@dataclass(frozen=True, slots=True)
class ConverterOptions:
    """What to convert: `output` is written directly, so it is for the caller to name a temporary path."""

    checkpoint: Path
    output: Path
    outtype: str = "f16"
    model_name: str | None = None
    mtp: bool = True


def argv(options: ConverterOptions, source: Path) -> list[str]:
    """Make the command line; `source` is llama.cpp's source tree."""
    # The converter fills in {ftype} and the like in the output's name; a brace of ours must survive that.
    name = options.output.name.replace("{", "{{").replace("}", "}}")
    arguments = [
        str(options.checkpoint),
        "--outtype",
        options.outtype,
        "--outfile",
        str(options.output.parent / name),
    ]
    if options.model_name is not None:
        arguments += ["--model-name", options.model_name]
    if not options.mtp:
        arguments += ["--no-mtp"]
    return [sys.executable, str(source / _SCRIPT), *arguments]


def parse_progress(line: str) -> int | None:
    """Read the percentage written so far from a line of the converter's progress bar."""
    found = _WRITING.match(line.strip())
    return int(found[1]) if found else None


def parse_failure(lines: Sequence[str]) -> str:
    """Find the one line that says why the converter failed: the end of its traceback, else its last words."""
    said = [line.strip() for line in lines if line.strip() and parse_progress(line) is None]
    for line in reversed(said):
        if _EXCEPTION.match(line):
            return line
    return said[-1].partition("ERROR:hf-to-gguf:")[2] or said[-1] if said else "it printed nothing"


def convert(
    checkpoint: Path,
    output: Path,
    *,
    outtype: str = "f16",
    model_name: str | None = None,
    mtp: bool = True,
    trust_remote_code: bool = False,
    progress: Progress = silent,
) -> None:
    """Convert a checkpoint to the file `output`; without `mtp`, leave multi-token prediction out.

    Raises:
        UnsafeError: the folder brings code, and `trust_remote_code` is false.
        MissingDependencyError: torch, transformers or llama.cpp's source tree is not there.
        UnsupportedArchitectureError: the converter does not know the architecture either.
        LlamaCppError: it failed otherwise.
    """
    options = ConverterOptions(checkpoint, output, outtype, model_name, mtp)
    if not trust_remote_code and (code := code_in(options.checkpoint)):
        raise UnsafeError(
            f"{options.checkpoint} brings code, which llama.cpp's converter would run: {', '.join(code)}",
            hint="read the code, then add --trust-remote-code",
        )
    source = find_source()
    missing = [name for name in _PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise MissingDependencyError(
            f"llama.cpp's converter needs {' and '.join(missing)}", hint="pip install 'ggufkit[hf]'"
        )
    lines: list[str] = []

    def follow(line: str) -> None:
        lines.append(line)
        del lines[:-400]
        if (percent := parse_progress(line)) is not None:
            progress("Converting", percent, 100, "steps")

    progress("Converting", 0, 0, "steps")
    try:
        run(argv(options, source), on_line=follow, environment=_OFFLINE)
    except LlamaCppError as error:
        raise _explained(options, lines, error) from error
    if not options.output.is_file():
        raise LlamaCppError(f"llama.cpp's converter wrote no file for {options.checkpoint}: {parse_failure(lines)}")
    progress("Converting", 100, 100, "steps")


def code_in(checkpoint: Path) -> list[str]:
    """List what in a checkpoint folder is code, or names code to be fetched and run (`auto_map`)."""
    found = sorted(str(path.relative_to(checkpoint)) for path in checkpoint.rglob("*.py"))
    for name in _FILES_THAT_NAME_CODE:
        path = checkpoint / name
        if path.is_file() and _names_code(_read(path)):
            found.append(f"auto_map in {name}")
    return found


@functools.cache
def known_architectures() -> frozenset[str]:
    """List the names of `config.json`'s `architectures` that the converter knows, read from its source as text.

    Raises:
        MissingDependencyError: the source tree is not unpacked.
        LlamaCppError: the list is not where this release of llama.cpp has it.
    """
    path = find_source() / "conversion" / "__init__.py"
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except (OSError, SyntaxError) as error:
        raise LlamaCppError(f"cannot read the list of architectures in {path}: {error}") from error
    for node in tree.body:
        if isinstance(node, ast.AnnAssign) and ast.unparse(node.target) == "TEXT_MODEL_MAP" and node.value:
            return frozenset(ast.literal_eval(node.value))
    raise LlamaCppError(f"no TEXT_MODEL_MAP in {path}")


def nearest_architectures(name: str) -> list[str]:
    """Name up to three architectures that are spelled almost like `name`."""
    return difflib.get_close_matches(name, sorted(known_architectures()), n=3, cutoff=0.75)


def _explained(options: ConverterOptions, lines: Sequence[str], error: LlamaCppError) -> Exception:
    for line in lines:
        if found := _UNSUPPORTED.search(line):
            name = found[1] or found[2]
            near = nearest_architectures(name)
            return UnsupportedArchitectureError(
                f"llama.cpp's converter does not know the architecture {name!r} either",
                hint=f"it knows {', '.join(near)}" if near else None,
            )
    said = parse_failure(lines)
    if "ended with signal" in str(error):
        return LlamaCppError(f"llama.cpp's converter died on {options.checkpoint}: {error}")
    return LlamaCppError(f"llama.cpp's converter failed on {options.checkpoint}: {said}")


def _read(path: Path) -> object:
    try:
        return json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: not valid JSON: {error}") from error


def _names_code(content: Any) -> bool:
    """Look for `auto_map` at any depth: multimodal configs nest the text model's."""
    if isinstance(content, dict):
        return bool(content.get("auto_map")) or any(map(_names_code, content.values()))
    return isinstance(content, list) and any(map(_names_code, content))
