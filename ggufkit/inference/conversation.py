"""What was said in a chat, as a value: every change makes a new one."""

from dataclasses import dataclass, replace

from ggufkit.inference.templates import Message


@dataclass(frozen=True, slots=True)
class Conversation:
    """An optional system prompt, then user and assistant in turn.

    Attributes:
        system: how the model is told to behave.
        turns: all messages of user and assistant.
        forgotten: exchanges at the beginning that the model is not shown any more, because its context was full.
    """

    system: str | None = None
    turns: tuple[Message, ...] = ()
    forgotten: int = 0

    @property
    def messages(self) -> tuple[Message, ...]:
        """Return the messages that the model is shown, as the template wants them."""
        questions = [at for at, turn in enumerate(self.turns) if turn.role == "user"]
        shown = self.turns[questions[self.forgotten] :] if self.forgotten < len(questions) else ()
        return ((Message("system", self.system),) if self.system else ()) + (shown if self.forgotten else self.turns)

    @property
    def exchanges(self) -> int:
        """Return the number of user messages."""
        return sum(turn.role == "user" for turn in self.turns)

    @property
    def last_question(self) -> str | None:
        """Return the text of the last user message; None when there is none."""
        return next((turn.content for turn in reversed(self.turns) if turn.role == "user"), None)

    @property
    def last_reply(self) -> Message | None:
        """Return the last message when it is a reply."""
        return self.turns[-1] if self.turns and self.turns[-1].role == "assistant" else None

    def asked(self, text: str) -> "Conversation":
        """Return the conversation with one more user message."""
        return replace(self, turns=(*self.turns, Message("user", text)))

    def answered(self, text: str, reasoning: str = "") -> "Conversation":
        """Return the conversation with one more reply."""
        return replace(self, turns=(*self.turns, Message("assistant", text, reasoning)))

    def cleared(self) -> "Conversation":
        """Return the conversation with nothing but its system prompt."""
        return Conversation(self.system)

    def forgetting(self, exchanges: int) -> "Conversation":
        """Return the conversation with so many of its first exchanges no longer shown, the last one always kept."""
        return replace(self, forgotten=max(0, min(exchanges, self.exchanges - 1)))

    def before_last_reply(self) -> "Conversation":
        """Return the conversation as it was before its last reply; unchanged when it ends with a question."""
        return replace(self, turns=self.turns[:-1]) if self.last_reply else self

    def before_last_question(self) -> "Conversation":
        """Return the conversation without its last question and the reply to it."""
        last = max((at for at, turn in enumerate(self.turns) if turn.role == "user"), default=0)
        return replace(self, turns=self.turns[:last])
