"""A conversation is a value; a session continues it, forgets the oldest when the context is full, and says so."""

import json
from pathlib import Path

import pytest
import tiny_model

from ggufkit.errors import InputError, UsageError
from ggufkit.inference import session_file
from ggufkit.inference.conversation import Conversation
from ggufkit.inference.engine import Engine
from ggufkit.inference.options import EngineOptions, SamplingOptions
from ggufkit.inference.reasoning import Markers, Reasoning
from ggufkit.inference.session import ChatSession, WhenFull
from ggufkit.inference.templates import ChatTemplate, Message

GREEDY = SamplingOptions(temperature=0)


def test_a_conversation_is_a_value() -> None:
    empty = Conversation("be kind")
    asked = empty.asked("hi")
    answered = asked.answered("ho").asked("and?").answered("no")
    assert empty.turns == ()
    assert [message.role for message in answered.messages] == ["system", "user", "assistant", "user", "assistant"]
    assert answered.before_last_reply() == asked.answered("ho").asked("and?")
    assert answered.forgetting(1).messages == (
        Message("system", "be kind"), Message("user", "and?"), Message("assistant", "no"),
    )  # fmt: skip
    assert answered.forgetting(1).turns == answered.turns
    assert answered.forgetting(7) == answered.forgetting(1)
    assert answered.before_last_question() == asked.answered("ho")
    assert answered.last_question == "and?"
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


def test_a_full_context_forgets_the_oldest_at_once_and_what_is_left_is_not_read_again(tmp_path: Path) -> None:
    chat = session(tiny_model.saying(tmp_path / "m.gguf", "Hi"), context_size=400, conversation=Conversation("be kind"))
    system = len(chat.engine.tokenize("<|im_start|>system\nbe kind<|im_end|>\n<|im_start|>user\n", parse_special=True))
    drops, reused = [], []
    for number in range(20):
        before = chat.used()
        result = chat.ask(f"question number {number:02}").result
        drops.append(chat.dropped)
        reused.append(result.reused_tokens)
        if chat.dropped:
            assert result.prompt_tokens <= 200
            assert result.reused_tokens >= system
        elif number:
            assert result.reused_tokens >= before - len("assistant\n") - 3  # all but the opening of the reply
    assert 1 <= sum(dropped > 0 for dropped in drops) <= 4
    assert chat.conversation.exchanges == 20
    assert chat.conversation.forgotten == sum(drops)
    assert chat.conversation.messages[0] == Message("system", "be kind")
    assert chat.conversation.messages[-2:] == (Message("user", "question number 19"), Message("assistant", "Hi"))
    chat.engine.close()
    larger, as_large = (session(tmp_path / "m.gguf", context_size=size) for size in (4000, 400))
    for other in (larger, as_large):
        other.restore(chat.conversation)
        other.engine.close()
    assert larger.conversation == chat.conversation.forgetting(0)  # a larger context has room for all of it
    assert as_large.conversation == chat.conversation


def test_a_question_that_is_too_long_by_itself_is_not_blamed_on_the_conversation(tmp_path: Path) -> None:
    path = tiny_model.saying(tmp_path / "m.gguf", "Hi")
    chat = session(path, context_size=200, when_full=WhenFull.STOP, conversation=Conversation("be kind, " * 60))
    with pytest.raises(InputError, match=r"the prompt has .* tokens, but the context holds 200"):
        chat.ask("hello")
    chat.engine.close()


def test_a_full_context_can_be_refused_and_nothing_is_lost(tmp_path: Path) -> None:
    path = tiny_model.saying(tmp_path / "m.gguf", "Hi")
    chat = session(path, context_size=200, when_full=WhenFull.STOP)
    for _ in range(3):
        chat.ask("a question").result  # noqa: B018 - runs it
    with pytest.raises(InputError, match=r"the context is full: .* of 200 tokens"):
        chat.ask("a question of many more words, " * 3)
    told = chat.conversation
    assert told.exchanges == 3
    assert told.forgotten == 0
    chat.regenerate().result  # noqa: B018
    assert chat.conversation == told
    chat.engine.close()


def test_another_question_or_another_reply_reads_only_what_is_new(tmp_path: Path) -> None:
    chat = session(tiny_model.saying(tmp_path / "m.gguf", "Hi"), conversation=Conversation("be kind"))
    for number in range(3):
        last = chat.ask(f"question {number}").result
    anew = chat.regenerate().result
    assert (anew.prompt_tokens, anew.reused_tokens) == (last.prompt_tokens, last.prompt_tokens - 1)
    edited = chat.edit("question 2, but another one").result
    assert edited.reused_tokens >= last.prompt_tokens - len("<|im_end|>\nassistant\n")
    assert chat.conversation.last_question == "question 2, but another one"
    assert chat.conversation.exchanges == 3
    chat.conversation = chat.conversation.cleared()
    with pytest.raises(UsageError, match="no question to edit"):
        chat.edit("anything")
    assert chat.ask("question 0").result.reused_tokens > 0  # the system prompt
    chat.engine.close()


THINKING = tiny_model.CHATML.replace("assistant\n'", "assistant\n' + ('' if enable_thinking is false else '<think>')")


def test_reasoning_is_kept_beside_the_answer_and_its_marker_may_stand_in_the_prompt(tmp_path: Path) -> None:
    said = [tiny_model.token(text) for text in ("</think>", *"Yes")]
    path = tiny_model.write(
        tmp_path / "m.gguf",
        template=THINKING,
        successors=tiny_model.chain(tiny_model.token("<think>"), [*tiny_model.ids("hm"), *said])
        | {tiny_model.token(tiny_model.spell("\n")): tiny_model.token("Y")},
    )
    chat = session(path)
    reply = chat.ask("hello")
    assert [piece.text for piece in reply if piece.is_reasoning] == ["h", "m"]
    assert (reply.answer, reply.reasoning) == ("Yes", "hm")
    assert chat.conversation.last_reply == Message("assistant", "Yes", "hm")
    chat.reasoning = Reasoning.OFF
    reply = chat.regenerate()
    assert (reply.result.text, reply.answer, reply.reasoning) == ("Yes", "Yes", "")
    chat.engine.close()


def test_markers_that_are_control_tokens_are_seen_and_not_shown(tmp_path: Path) -> None:
    # Here the end of the sequence of some models is the start of reasoning, as the tokens of gpt-oss or Mistral are.
    marks = {"[THINK]": "<|im_start|>", "[/THINK]": "<|endoftext|>"}
    template = tiny_model.CHATML + "{# <|im_start|>thinking<|endoftext|> #}"
    path = tiny_model.saying(tmp_path / "m.gguf", "Hi", template=template)
    chat = session(path)
    chat._markers = Markers(*marks.values(), known=True, everywhere=True)
    splitter = chat.marker_tokens()
    assert set(splitter.values()) == set(marks.values())
    chat.engine.close()


def test_a_chat_goes_through_a_file(tmp_path: Path) -> None:
    path = tiny_model.saying(tmp_path / "m.gguf", "Hi 🙂!")
    chat = session(path, conversation=Conversation("be kind"), max_tokens=40, when_full=WhenFull.STOP)
    chat.ask("hello\nthere").result  # noqa: B018 - runs it
    chat.conversation = chat.conversation.asked("é\ud800").answered("ok", "hm").forgetting(1)
    file = tmp_path / "chat.json"
    session_file.save(chat, file)
    other = session(path)
    saved = session_file.load(file)
    saved.restore(other)
    assert json.loads(file.read_text())["schema_version"] == 1
    assert saved.model == "m.gguf"
    assert other.conversation.turns[:2] == chat.conversation.turns[:2]
    assert other.conversation.turns[3] == Message("assistant", "ok", "hm")
    assert other.conversation.forgotten == 0  # there is room for all of it
    assert (other.max_tokens, other.when_full, other.sampling) == (40, WhenFull.STOP, GREEDY)
    chat.engine.close()
    other.engine.close()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not JSON"),
        ("[1]", "not a chat"),
        ("{}", "not a chat"),
        ('{"kind": "ggufkit chat", "schema_version": 2}', "a later ggufkit"),
        ('{"kind": "ggufkit chat", "schema_version": 1, "turns": {}}', "turns must be of type list"),
        ('{"kind": "ggufkit chat", "schema_version": 1, "turns": [{"role": "system"}]}', "role user or assistant"),
        ('{"kind": "ggufkit chat", "schema_version": 1, "turns": [{"role": "user", "content": 1}]}', "type str"),
        ('{"kind": "ggufkit chat", "schema_version": 1, "settings": {"sampling": {"heat": 1}}}', "no option heat"),
        ('{"kind": "ggufkit chat", "schema_version": 1, "settings": {"sampling": {"top_k": -1}}}', "top_k"),
        ('{"kind": "ggufkit chat", "schema_version": 1, "settings": {"sampling": {"top_k": "x"}}}', "not a chat that"),
        ('{"kind": "ggufkit chat", "schema_version": 1, "settings": {"sampling": {"top_k": 40.5}}}', "whole number"),
        ('{"kind": "ggufkit chat", "schema_version": 1, "settings": {"sampling": {"seed": 1.5}}}', "whole number"),
        ('{"kind": "ggufkit chat", "schema_version": 1, "settings": {"sampling": {"ignore_eos": "no"}}}', "true or"),
        ('{"kind": "ggufkit chat", "schema_version": 1, "settings": {"reasoning": "maybe"}}', "maybe"),
        ('{"kind": "ggufkit chat", "schema_version": 1, "forgotten": true}', "forgotten"),
    ],
)
def test_a_file_that_is_no_chat_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "chat.json").write_text(text)
    with pytest.raises(InputError, match=message):
        session_file.load(tmp_path / "chat.json")


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
