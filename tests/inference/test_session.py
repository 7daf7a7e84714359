"""A conversation is a value; a session continues it, forgets the oldest when the context is full, and says so."""

from pathlib import Path

import pytest
import tiny_model

from ggufkit.errors import InputError, UsageError
from ggufkit.inference.engine import Engine
from ggufkit.inference.options import EngineOptions, SamplingOptions
from ggufkit.inference.session import ChatSession, Conversation
from ggufkit.inference.templates import ChatTemplate, Message

GREEDY = SamplingOptions(temperature=0)


def test_a_conversation_is_a_value() -> None:
    empty = Conversation("be kind")
    asked = empty.asked("hi")
    answered = asked.answered("ho").asked("and?").answered("no")
    assert empty.turns == ()
    assert [message.role for message in answered.messages] == ["system", "user", "assistant", "user", "assistant"]
    assert answered.before_last_reply() == asked.answered("ho").asked("and?")
    assert answered.without_oldest().turns == (Message("user", "and?"), Message("assistant", "no"))
    assert answered.exchanges == 2
    assert answered.cleared() == empty


pytestmark = pytest.mark.engine


def session(path: Path, context_size: int = 512, **more: object) -> ChatSession:
    engine = Engine.open(path, EngineOptions(context_size=context_size, threads=1))
    return ChatSession(engine=engine, template=ChatTemplate.of(engine), sampling=GREEDY, **more)


def test_replies_become_part_of_the_conversation_and_are_not_read_again(tmp_path: Path) -> None:
    chat = session(tiny_model.saying(tmp_path / "m.gguf", "Hi 🙂!"))
    first = chat.ask("hello")
    assert "".join(piece.text for piece in first) == "Hi 🙂!"
    second = chat.ask("again").result
    assert [turn.content for turn in chat.conversation.turns] == ["hello", "Hi 🙂!", "again", "Hi 🙂!"]
    assert second.reused_tokens == first.result.prompt_tokens + first.result.generated_tokens
    chat.engine.close()


def test_regenerating_replaces_the_last_reply(tmp_path: Path) -> None:
    chat = session(tiny_model.saying(tmp_path / "m.gguf", "Hi"))
    with pytest.raises(UsageError, match="nothing to answer"):
        chat.regenerate()
    chat.ask("hello").result  # noqa: B018 - runs it
    chat.regenerate().result  # noqa: B018
    assert [turn.content for turn in chat.conversation.turns] == ["hello", "Hi"]
    chat.engine.close()


def test_an_interrupted_reply_counts_as_far_as_it_came(tmp_path: Path) -> None:
    chat = session(tiny_model.saying(tmp_path / "m.gguf", "abc", endless=True))
    reply = chat.ask("hello")
    for number, _ in enumerate(reply, 1):
        if number == 4:
            reply.interrupt()
    assert chat.conversation.turns[-1] == Message("assistant", "abca")
    chat.engine.close()


def test_a_full_context_forgets_the_oldest_but_not_the_system_prompt(tmp_path: Path) -> None:
    chat = session(tiny_model.saying(tmp_path / "m.gguf", "Hi"), context_size=200, conversation=Conversation("be kind"))
    dropped = 0
    for number in range(10):
        chat.ask(f"question number {number}").result  # noqa: B018 - runs it
        dropped += chat.dropped
    assert dropped > 0
    assert chat.conversation.exchanges == 10 - dropped
    assert chat.conversation.messages[0] == Message("system", "be kind")
    assert chat.conversation.turns[-2:] == (Message("user", "question number 9"), Message("assistant", "Hi"))
    chat.engine.close()


def test_a_message_that_does_not_fit_is_an_error_and_is_not_kept(tmp_path: Path) -> None:
    chat = session(tiny_model.saying(tmp_path / "m.gguf", "Hi"), context_size=100)
    with pytest.raises(InputError, match="the context holds 100"):
        chat.ask("x y z " * 100)
    assert chat.conversation.turns == ()
    assert chat.ask("short").result.text == "Hi"
    chat.engine.close()


def test_a_template_without_system_role_gets_the_system_prompt_in_the_question(tmp_path: Path) -> None:
    refusing = "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}" + tiny_model.CHATML
    path = tiny_model.saying(tmp_path / "m.gguf", "Hi", template=refusing)
    chat = session(path, conversation=Conversation("be kind"))
    assert chat.ask("hello").result.text == "Hi"
    assert chat.system_merged
    text = chat.engine.text_of(chat.tokens(chat.conversation), special=True)
    assert text.startswith("<|im_start|>user\nbe kind\n\nhello<|im_end|>")
    chat.engine.close()
