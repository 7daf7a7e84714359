"""A chat: the conversation as a value, and the session that has a model continue it within its context.

When the context is full, the oldest exchanges are dropped (the system prompt stays) until the rest and a quarter of the
context for the reply fit; the session says how many. A single message that does not fit is an error.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ggufkit.errors import UsageError
from ggufkit.inference.engine import Engine
from ggufkit.inference.generation import Generation, GenerationResult, Piece
from ggufkit.inference.options import SamplingOptions
from ggufkit.inference.templates import ChatTemplate, Message, RoleRefusedError, merge_system


@dataclass(frozen=True, slots=True)
class Conversation:
    """What was said: an optional system prompt, then user and assistant in turn."""

    system: str | None = None
    turns: tuple[Message, ...] = ()

    @property
    def messages(self) -> tuple[Message, ...]:
        """Return all messages as the template wants them."""
        return ((Message("system", self.system),) if self.system else ()) + self.turns

    def asked(self, text: str) -> "Conversation":
        """Return the conversation with one more user message."""
        return replace(self, turns=(*self.turns, Message("user", text)))

    def answered(self, text: str) -> "Conversation":
        """Return the conversation with one more reply."""
        return replace(self, turns=(*self.turns, Message("assistant", text)))

    def cleared(self) -> "Conversation":
        """Return the conversation with nothing but its system prompt."""
        return replace(self, turns=())

    def without_oldest(self) -> "Conversation":
        """Return the conversation without its first exchange."""
        second = next((at for at, turn in enumerate(self.turns) if at and turn.role == "user"), len(self.turns))
        return replace(self, turns=self.turns[second:])

    def before_last_reply(self) -> "Conversation":
        """Return the conversation as it was before its last reply; unchanged when it ends with a question."""
        turns = self.turns
        return replace(self, turns=turns[:-1] if turns and turns[-1].role == "assistant" else turns)

    @property
    def exchanges(self) -> int:
        """Return the number of user messages."""
        return sum(turn.role == "user" for turn in self.turns)


@dataclass(slots=True, kw_only=True)
class ChatSession:
    """A model, its template, and a conversation that grows with every reply.

    Attributes:
        sampling: how tokens are chosen; None takes the model's own defaults.
        max_tokens: most tokens of a reply; None leaves it to the model and the context.
        variables: more values for the template, such as `enable_thinking`.
        dropped: exchanges that had to go to make room for the last reply.
        system_merged: whether the template has no system role, so that the first user message carries it.
    """

    engine: Engine
    template: ChatTemplate
    conversation: Conversation = field(default_factory=Conversation)
    sampling: SamplingOptions | None = None
    max_tokens: int | None = None
    stop: Sequence[str] = ()
    variables: dict[str, Any] = field(default_factory=dict)
    dropped: int = 0
    system_merged: bool = False

    def ask(self, text: str) -> "Reply":
        """Add a user message and let the model reply; both stay in the conversation once the reply has ended.

        Raises:
            InputError: the message does not fit in the context, or the template fails.
        """
        return self._reply(self.conversation.asked(text))

    def regenerate(self) -> "Reply":
        """Let the model reply anew to the last question. Raises UsageError when there is none."""
        question = self.conversation.before_last_reply()
        if not question.turns:
            raise UsageError("there is nothing to answer yet")
        return self._reply(question)

    def tokens(self, conversation: Conversation) -> list[int]:
        """Return the prompt for the next reply; a system prompt that the template refuses moves into the question."""
        messages = list(conversation.messages)
        if not self.system_merged:
            try:
                return self.template.tokenize(self.engine, messages, variables=self.variables)
            except RoleRefusedError:
                if conversation.system is None:
                    raise
        tokens = self.template.tokenize(self.engine, merge_system(messages), variables=self.variables)
        self.system_merged = True
        return tokens

    def _reply(self, conversation: Conversation) -> "Reply":
        fitting, tokens = self._fit(conversation)
        self.dropped = conversation.exchanges - fitting.exchanges
        generation = self.engine.generate(tokens, self.sampling, max_tokens=self.max_tokens, stop=self.stop)
        return Reply(self, fitting, generation)

    def _fit(self, conversation: Conversation) -> tuple[Conversation, list[int]]:
        quarter = self.engine.context_size // 4
        room = self.engine.context_size - min(self.max_tokens or quarter, quarter)
        tokens = self.tokens(conversation)
        while len(tokens) > room and conversation.exchanges > 1:
            conversation = conversation.without_oldest()
            tokens = self.tokens(conversation)
        return conversation, tokens


class Reply:
    """A reply in the making; iterate over its pieces, then read `result`."""

    def __init__(self, session: ChatSession, question: Conversation, generation: Generation) -> None:
        self._session = session
        self._question = question
        self._generation = generation
        self._recorded = False

    def __iter__(self) -> Iterator[Piece]:
        yield from self._generation
        self._record()

    def interrupt(self) -> None:
        """End the reply after the current token; for signal handlers and other threads."""
        self._session.engine.interrupt()

    @property
    def result(self) -> GenerationResult:
        """Return the result, generating what is missing; an interrupted reply counts as far as it came."""
        result = self._generation.result
        self._record()
        return result

    def _record(self) -> None:
        if not self._recorded:
            self._recorded = True
            self._session.conversation = self._question.answered(self._generation.result.text)
