"""From what a script wants answered to token ids, and from the reply's text back to answer and reasoning."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ggufkit.errors import UsageError
from ggufkit.inference.loaded_model import LoadedModel
from ggufkit.inference.reasoning import Reasoning, Splitter, find_markers, switch
from ggufkit.inference.templates import ChatTemplate, Message, RoleRefusedError, merge_system

_TAIL = 64  # tokens at the end of a prompt in which the marker of open reasoning would be


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptOptions:
    """How prompts are made.

    Attributes:
        raw: continue a text as it is, without a chat template; control tokens in it count.
        system: the system prompt for all.
        template: Jinja source to use in place of the model's own template.
        variables: more values for the template; they come before what `reasoning` asks for.
        reasoning: whether the model should think first.
    """

    raw: bool = False
    system: str | None = None
    template: str | None = None
    variables: Mapping[str, Any] = field(default_factory=dict)
    reasoning: Reasoning = Reasoning.AUTO

    def __post_init__(self) -> None:
        """Refuse what does not go together. Raises UsageError."""
        if self.raw and (self.system or self.template or self.variables or self.reasoning is not Reasoning.AUTO):
            raise UsageError("--raw continues the text as it is: it goes with no option about the chat template")


class PromptMaker:
    """Makes prompts for one model; a model without a chat template continues texts as they are."""

    def __init__(self, model: LoadedModel, options: PromptOptions) -> None:
        """Compile the template.

        Raises:
            InputError: the template is not valid, or options about it were given for a model that has none.
            UsageError: reasoning was asked of a model that knows none.
        """
        self._model = model
        self._options = options
        own = model.metadata("tokenizer.chat_template")
        about_template = options.system or options.template or options.variables or options.reasoning is Reasoning.ON
        self.raw = options.raw or not (own or about_template)
        self.spelled: Mapping[int, str] = {}
        if self.raw:
            return
        self._template = ChatTemplate.of(model, options.template)
        self._markers = find_markers(self._template, self._has_control)
        self._switch = switch(self._template, self._markers, options.reasoning)
        if options.reasoning is Reasoning.ON and not self._switch.works:
            raise UsageError("--reasoning on: neither the template nor the vocabulary of this model knows reasoning")
        if self._markers.everywhere:
            ids = {token for text in self._markers.texts for token in model.tokenize(text, parse_special=True)}
            self.spelled = {token: model.token_text(token) for token in ids if model.is_control(token)}

    def tokens(
        self, prompt: str | None = None, messages: Sequence[Message] = (), *, system: str | None = None
    ) -> list[int]:
        """Return the prompt for a text, or for a conversation that the model is to continue.

        Raises:
            UsageError: messages or a system prompt were given, but there is no template.
            InputError: the template fails, or does not take these messages.
            UnsafeError: text of a message would become a control token.
        """
        system = system if system is not None else self._options.system
        if self.raw:
            if messages or system:
                reason = "--raw was given" if self._options.raw else "this model has no chat template"
                raise UsageError(f"messages and system prompts need a chat template, but {reason}")
            return self._model.tokenize(prompt or "", add_special=True, parse_special=True)
        conversation = list(messages) or [Message("user", prompt or "")]
        if system and conversation[0].role != "system":
            conversation.insert(0, Message("system", system))
        more: dict[str, Any] = {
            "variables": {**self._switch.variables, **self._options.variables},
            "prefill": self._switch.prefill,
        }
        try:
            return self._template.tokenize(self._model, conversation, **more)
        except RoleRefusedError:
            if conversation[0].role != "system":
                raise
            return self._template.tokenize(self._model, merge_system(conversation), **more)

    def splitter(self, tokens: Sequence[int]) -> "AnswerSplitter":
        """Return what takes a reply to this prompt apart."""
        if self.raw:
            return AnswerSplitter(None, {})
        thinking = self._markers.is_open(self._model.text_of(tokens[-_TAIL:], special=True))
        return AnswerSplitter(Splitter(self._markers, thinking=thinking), self.spelled)

    def _has_control(self, text: str) -> bool:
        return any(map(self._model.is_control, self._model.tokenize(text, parse_special=True)))


class AnswerSplitter:
    """Takes a reply in pieces, and gives the parts that belong to the answer; it keeps the reasoning."""

    def __init__(self, splitter: Splitter | None, spelled: Mapping[int, str]) -> None:
        self._splitter = splitter
        self._spelled = spelled
        self.answer = ""
        self.reasoning = ""

    def feed(self, text: str, token: int | None = None) -> str:
        """Return what a piece of the reply adds to the answer."""
        if self._splitter is None:
            self.answer += text
            return text
        return self._sort(self._splitter.feed(text + self._spelled.get(token, "") if token is not None else text))

    def finish(self) -> str:
        """Return what was held back."""
        return self._sort(self._splitter.finish()) if self._splitter else ""

    def _sort(self, parts: Any) -> str:
        new = ""
        for text, is_reasoning in parts:
            for marker in self._spelled.values():  # one that stood where it means nothing
                text = text.replace(marker, "")
            if is_reasoning:
                self.reasoning += text
            else:
                new += text
        self.answer += new
        return new
