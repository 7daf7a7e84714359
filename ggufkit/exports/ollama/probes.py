"""Conversations by which two chat templates are told apart: roles as chats have them, texts that hold all sorts.

No text begins or ends with blanks: whether a template trims is asked apart, because a Go template cannot.
"""

from ggufkit.exports.ollama.messages import Message

_TEXTS = (
    "What is the capital of France?",
    "Paris.",
    "two\nlines, and\n\n\nmore   of them",
    'say "hi", it\'s {{ .Content }} {% if x %} {# y #} & <b>bold</b> \\n %s {0}',
    "日本語 émile 🙂 Ω",
    "1 < 2 and 3 > 2; [INST] is just text",
    "# Title\n\n- a\n- b\n\n```python\nprint('x')\n```",
    "ok",
    "7",
    "I am sure.",
)


def _conversation(start: int, turns: int, *, system: bool) -> tuple[Message, ...]:
    roles = ["system"] * system + ["user", "assistant"] * turns + ["user"]
    return tuple(Message(role, _TEXTS[(start + number) % len(_TEXTS)]) for number, role in enumerate(roles))


PROBES = tuple(
    _conversation(3 * turns + 5 * system + start, turns, system=bool(system))
    for turns in range(4)
    for system in (0, 1)
    for start in (0, 4)
)
