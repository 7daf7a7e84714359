"""From a JSON schema to a grammar, by llama.cpp's own converter: the grammar that its server would use.

The converter is a C++ function of libllama-common, so it is called in a child process, which it ends when it refuses
a schema: `python -m ggufkit.llamacpp.json_schema LIBRARY SCHEMA GRAMMAR` writes the grammar into a file.
"""

import ctypes
import functools
import json
import resource
import sys
import tempfile
from pathlib import Path

from ggufkit.errors import InputError, LlamaCppError
from ggufkit.llamacpp import binding, run
from ggufkit.llamacpp.find import find
from ggufkit.llamacpp.grammar_text import fault_of
from ggufkit.llamacpp.schema_text import fault_of_schema

_PARSE = "_ZN11common_json5parseERKNSt7__cxx1112basic_stringIcSt11char_traitsIcESaIcEEE"  # common/json.h
_CONVERT = "_Z22json_schema_to_grammarB5cxx11RK11common_jsonb"  # common/json-schema-to-grammar.h
IS_FAULTY = "the grammar of the JSON schema"  # how the message of a refusal begins that is about the grammar
_INCOMPLETE = "JSON schema conversion was incomplete:"
_PATIENCE = 20.0  # seconds
_AN_EXAMPLE = 'such as {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}'


class _String(ctypes.Structure):
    """`std::string` of libstdc++: where it is, how long, and room for a short one."""

    _fields_ = (("data", ctypes.c_void_p), ("size", ctypes.c_size_t), ("room", ctypes.c_char * 16))


class _Json(ctypes.Structure):
    """`common_json`, with room to spare: it comes back in memory that the caller provides."""

    _fields_ = (("content", ctypes.c_char * 256),)


@functools.lru_cache(maxsize=1024)
def grammar(schema: str) -> str:
    """Return the GBNF that llama.cpp makes of a JSON schema, given as text.

    Of some keywords (`multipleOf`, `uniqueItems`, `not`, most of `format`) it takes no notice.

    Raises:
        InputError: it is not JSON, or asks for what llama.cpp cannot put into a grammar, or allows nothing.
        MissingDependencyError: llama.cpp is not built.
    """
    try:
        document = json.loads(schema)
    except (ValueError, RecursionError) as error:
        raise InputError(f"the JSON schema is not valid JSON: {error}", hint=_AN_EXAMPLE) from None
    if not isinstance(document, dict):
        raise InputError("a JSON schema must be an object", hint=_AN_EXAMPLE)
    if fault := fault_of_schema(document):
        raise InputError(f"the JSON schema {fault}", hint="swap them")
    library = find().library("llama-common")
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder, "schema.json"), Path(folder, "grammar.gbnf")
        source.write_text(json.dumps(document), encoding="utf-8")
        try:
            # -P: the current folder may hold modules whose names hide the standard library's
            command = [sys.executable, "-P", "-m", "ggufkit.llamacpp.json_schema"]
            ended = run.run([*command, library, source, target], patience=_PATIENCE)
            found = target.read_text(encoding="utf-8")
        except LlamaCppError as error:
            raise InputError(
                f"llama.cpp makes no grammar of the JSON schema: {_reason(str(error))}", hint=_AN_EXAMPLE
            ) from None
    if _INCOMPLETE in ended.output:
        why = " ".join(ended.output.partition(_INCOMPLETE)[2].split())
        raise InputError(f"llama.cpp makes no grammar of the JSON schema: {why}", hint="leave that part out")
    if fault := fault_of(found):
        raise InputError(f"{IS_FAULTY} {fault}", hint="lower its limits, or swap them")
    return found


def _reason(message: str) -> str:
    """Pick what C++ says about an exception that nobody caught."""
    _, found, rest = message.partition("JSON schema conversion failed:")
    return (rest if found else message).partition(" (command: ")[0].replace("\n", " ").strip()


def _answer(library: str, source: str, target: str) -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a refusal is no crash to be looked into
    common = ctypes.CDLL(library)
    try:
        parse, convert = common[_PARSE], common[_CONVERT]
    except AttributeError:  # another C++ library (macOS): the binding has an older converter in Python
        Path(target).write_text(_by_binding(Path(source).read_text(encoding="utf-8")), encoding="utf-8")
        return
    parse.restype, parse.argtypes = _Json, [ctypes.POINTER(_String)]
    convert.restype, convert.argtypes = _String, [ctypes.POINTER(_Json), ctypes.c_bool]
    text = Path(source).read_bytes()
    buffer = ctypes.create_string_buffer(text)
    document = parse(_String(ctypes.addressof(buffer), len(text)))
    result = convert(document, False)  # a C function takes its arguments by place
    Path(target).write_bytes(ctypes.string_at(result.data, result.size))


def _by_binding(schema: str) -> str:
    binding.load()
    from llama_cpp.llama_grammar import json_schema_to_gbnf

    return str(json_schema_to_gbnf(schema))


if __name__ == "__main__":
    _answer(*sys.argv[1:])
