"""Regular expressions in the schemas of a request: only llama.cpp can tell what grammar it would make of one."""

import json

from ggufkit.errors import GgufkitError, InputError
from ggufkit.inference.serving.rules import Refusal, schemas_of, schemas_of_reply
from ggufkit.llamacpp import json_schema
from ggufkit.llamacpp.schema_text import patterns_of

_MOST = 64


def refuse_patterns(body: bytes) -> Refusal | None:
    """Return why a body that is a JSON object must not pass for one of its patterns; takes a process for each new one.

    Of some patterns llama.cpp makes no grammar and lets any text stand there. In what the reply is to follow they are
    refused: nobody would notice. In tools they pass: whoever is called looks at what comes, and tools of many origins
    are given along with each request.
    """
    document = json.loads(body)
    if not isinstance(document, dict):
        return None
    patterns = {each for schema in schemas_of(document) for each in patterns_of(schema)}
    inexpressible = set()
    if len(patterns) > _MOST:
        return _bad(f"{len(patterns)} patterns are too many; at most {_MOST}")
    for pattern in sorted(patterns):
        try:
            json_schema.grammar(json.dumps({"type": "string", "pattern": pattern}))
        except InputError as error:
            if json_schema.IS_FAULTY in str(error):
                return _bad(str(error))
            inexpressible.add(pattern)
        except GgufkitError:  # no llama.cpp, or no process: then nobody makes a grammar either
            return None
    for schema in schemas_of_reply(document):
        if not inexpressible.isdisjoint(patterns_of(schema)):
            try:
                json_schema.grammar(json.dumps(schema))  # which may have no use for it
            except InputError as error:
                return _bad(str(error))
    return None


def _bad(message: str) -> Refusal:
    return Refusal(400, "invalid_request_error", message)
