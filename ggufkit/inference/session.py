"""A chat session: it has a model continue a conversation within its context.

When the context is full, `WhenFull` says what happens. DROP: the oldest exchanges are no longer shown to the model
(the system prompt stays) until the rest takes at most half of the context: what is dropped at once need not be dropped
turn by turn, and until the next time every turn finds what came before it in memory. STOP: the question is refused.
Full means that less than a quarter of the context, or than the wanted length of the reply, would be left for it.
"""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, NamedTuple

from ggufkit.errors import InputError, UsageError
from ggufkit.inference.conversation import Conversation
from ggufkit.inference.engine import Engine
from ggufkit.inference.generation import FinishReason, Generation, GenerationResult
from ggufkit.inference.options import SamplingOptions
from ggufkit.inference.reasoning import Markers, Reasoning, Splitter, Switch, find_markers, switch
from ggufkit.inference.templates import ChatTemplate, RoleRefusedError, merge_system

_TAIL = 64  # tokens at the end of a prompt in which the marker of open reasoning would be


class WhenFull(StrEnum):
    """What to do when a question leaves too little of the context for its reply."""

    DROP = "drop"
    STOP = "stop"


class ReplyPiece(NamedTuple):
    """A part of a reply, which is reasoning or answer."""

    text: str
    is_reasoning: bool


@dataclass(slots=True, kw_only=True)
class ChatSession:
    """A model, its template, and a conversation that grows with every reply.

    Attributes:
        sampling: how tokens are chosen; None takes the model's own defaults.
        max_tokens: most tokens of a reply; None leaves it to the model and the context.
        reasoning: whether the model should think first.
        when_full: what happens when the context is full.
        variables: more values for the template; they come before what `reasoning` asks for.
        dropped: exchanges that were forgotten to make room for the last reply.
        system_merged: whether the template has no system role, so that the first user message carries it.
    """

    engine: Engine
    template: ChatTemplate
    conversation: Conversation = field(default_factory=Conversation)
    sampling: SamplingOptions | None = None
    max_tokens: int | None = None
    stop: Sequence[str] = ()
    reasoning: Reasoning = Reasoning.AUTO
    when_full: WhenFull = WhenFull.DROP
    variables: dict[str, Any] = field(default_factory=dict)
    dropped: int = 0
    system_merged: bool = False
    _markers: Markers | None = None
    _switches: dict[Reasoning, Switch] = field(default_factory=dict)

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

    def edit(self, text: str) -> "Reply":
        """Ask something else in place of the last question. Raises UsageError when there is none."""
        if self.conversation.last_question is None:
            raise UsageError("there is no question to edit yet")
        return self._reply(self.conversation.before_last_question().asked(text))

    @property
    def markers(self) -> Markers:
        """Return how this model marks its reasoning."""
        if self._markers is None:
            self._markers = find_markers(self.template, self._has_control)
        return self._markers

    @property
    def switch(self) -> Switch:
        """Return how the wish for reasoning is told to this model.

        A grammar is about the whole reply, reasoning included, so it goes without.
        """
        has_grammar = self.sampling is not None and self.sampling.grammar is not None
        wish = Reasoning.OFF if has_grammar else self.reasoning
        if wish not in self._switches:
            self._switches[wish] = switch(self.template, self.markers, wish)
        return self._switches[wish]

    def tokens(self, conversation: Conversation) -> list[int]:
        """Return the prompt for the next reply; a system prompt that the template refuses moves into the question."""
        messages = list(conversation.messages)
        wish = self.switch
        more: dict[str, Any] = {"variables": {**wish.variables, **self.variables}, "prefill": wish.prefill}
        if not self.system_merged:
            try:
                return self.template.tokenize(self.engine, messages, **more)
            except RoleRefusedError:
                if conversation.system is None:
                    raise
        tokens = self.template.tokenize(self.engine, merge_system(messages), **more)
        self.system_merged = True
        return tokens

    def used(self) -> int:
        """Return how many tokens of the context the conversation takes, as the next question will find it."""
        return len(self.tokens(self.conversation)) if self.conversation.messages else 0

    def restore(self, conversation: Conversation) -> None:
        """Go on with a conversation; all of it is shown to the model again where the context has room for that."""
        self.conversation = conversation
        if conversation.forgotten:
            whole = conversation.forgetting(0)
            with contextlib.suppress(InputError):  # the template's: the next question tells
                if len(self.tokens(whole)) <= self.engine.context_size - self._kept_for_reply():
                    self.conversation = whole

    def _kept_for_reply(self) -> int:
        size = self.engine.context_size
        return min(self.max_tokens or size // 4, size // 4)

    def _reply(self, conversation: Conversation) -> "Reply":
        fitting, tokens = self._fit(conversation)
        self.dropped = fitting.forgotten - conversation.forgotten
        generation = self.engine.generate(tokens, self.sampling, max_tokens=self.max_tokens, stop=self.stop)
        thinking = self.markers.is_open(self.engine.text_of(tokens[-_TAIL:], special=True))
        return Reply(self, fitting, generation, Splitter(self.markers, thinking=thinking))

    def _fit(self, conversation: Conversation) -> tuple[Conversation, list[int]]:
        size = self.engine.context_size
        reply = self._kept_for_reply()
        tokens = self.tokens(conversation)
        if len(tokens) <= size - reply or conversation.exchanges - conversation.forgotten <= 1:
            return conversation, tokens
        if self.when_full is WhenFull.STOP:
            raise InputError(
                f"the context is full: with this question the conversation has {len(tokens)} of {size} tokens, "
                f"which leaves less than the {reply} that are kept for a reply",
                hint=f"/clear forgets it; -c {2 * size} makes more room; --when-full drop forgets the oldest turns",
            )
        while len(tokens) > size // 2 and conversation.forgotten < conversation.exchanges - 1:
            conversation = conversation.forgetting(conversation.forgotten + 1)
            tokens = self.tokens(conversation)
        return conversation, tokens

    def _has_control(self, text: str) -> bool:
        return any(map(self.engine.is_control, self.engine.tokenize(text, parse_special=True)))

    def marker_tokens(self) -> dict[int, str]:
        """Return the control tokens that the markers consist of, which write nothing into a text."""
        tokens = {token for text in self.markers.texts for token in self.engine.tokenize(text, parse_special=True)}
        return {token: self.engine.token_text(token) for token in tokens if self.engine.is_control(token)}


class Reply:
    """A reply in the making; iterate over its pieces, then read `result`, `answer` and `reasoning`."""

    def __init__(
        self, session: ChatSession, question: Conversation, generation: Generation, splitter: Splitter
    ) -> None:
        self._session = session
        self._question = question
        self._generation = generation
        self._splitter = splitter
        self._texts: dict[bool, list[str]] = {False: [], True: []}
        self._pieces = self._split()
        self._marker_tokens = session.marker_tokens() if session.markers.everywhere else {}
        self.reasoning_tokens = 0

    def __iter__(self) -> Iterator[ReplyPiece]:
        return self._pieces

    def interrupt(self) -> None:
        """End the reply after the current token; for signal handlers and other threads."""
        self._session.engine.interrupt()

    @property
    def result(self) -> GenerationResult:
        """Return the result, generating what is missing; an interrupted reply counts as far as it came."""
        for _ in self._pieces:
            pass
        return self._generation.result

    @property
    def answer(self) -> str:
        """Return the answer so far, without the reasoning before it."""
        return "".join(self._texts[False])

    @property
    def reasoning(self) -> str:
        """Return the reasoning so far."""
        return "".join(self._texts[True]).rstrip()

    @property
    def is_thinking(self) -> bool:
        """Tell whether the reply is, or ended, within its reasoning."""
        return self._splitter.thinking

    def _split(self) -> Iterator[ReplyPiece]:
        for piece in self._generation:
            self.reasoning_tokens += self._splitter.thinking and piece.token is not None
            text = piece.text
            if piece.token in self._marker_tokens:
                text += self._marker_tokens[piece.token]
            yield from self._kept(self._splitter.feed(text))
        yield from self._kept(self._splitter.finish())
        result = self._generation.result
        if result.finish_reason is FinishReason.INTERRUPTED and not result.generated_tokens:
            return  # nothing was said: as if nothing had been asked
        self._session.conversation = self._question.answered(self.answer, self.reasoning)

    def _kept(self, parts: Iterator[tuple[str, bool]]) -> Iterator[ReplyPiece]:
        for text, is_reasoning in parts:
            for marker in self._marker_tokens.values():  # one that stood where it means nothing
                text = text.replace(marker, "")
            if text:
                self._texts[is_reasoning].append(text)
                yield ReplyPiece(text, is_reasoning)
