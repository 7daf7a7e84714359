"""Regular expressions in the schemas of a request: only llama.cpp can tell what grammar it would make of one."""

import json

from ggufkit.errors import GgufkitError, InputError
from ggufkit.inference.serving.rules import Refusal, schemas_of
from ggufkit.llamacpp import json_schema
from ggufkit.llamacpp.schema_text import patterns_of

_MOST = 64


def refuse_patterns(body: bytes) -> Refusal | None:
    """Return why a body that is a JSON object must not pass for one of its patterns; takes a process for each new one.

    What llama.cpp makes no grammar of passes: it lets any text stand there.
    """
    document = json.loads(body)
    if not isinstance(document, dict):
        return None
    patterns = {each for schema in schemas_of(document) for each in patterns_of(schema)}
    if len(patterns) > _MOST:
        return _bad(f"{len(patterns)} patterns are too many; at most {_MOST}")
    for pattern in sorted(patterns):
        try:
            json_schema.grammar(json.dumps({"type": "string", "pattern": pattern}))
        except InputError as error:
            if json_schema.IS_FAULTY in str(error):
                return _bad(str(error))
        except GgufkitError:  # no llama.cpp, or no process: then nobody makes a grammar either
            return None
    return None


def _bad(message: str) -> Refusal:
    return Refusal(400, "invalid_request_error", message)
