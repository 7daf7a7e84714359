"""Asking whatever is called as transformers' causal models are: for logits, and for the likeliest next tokens."""

import inspect
import io
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any


class CausalModel:
    """Takes a model of transformers, or of optimum, which is called in the same way; one sequence at a time."""

    def __init__(self, model: Any, *, weight_bytes: Callable[[], int | None] | None = None) -> None:
        """Wrap a loaded model; `weight_bytes` where torch.save of its state does not tell."""
        self._model = model
        self._weight_bytes = weight_bytes
        self._can_keep = "logits_to_keep" in inspect.signature(model.forward).parameters

    def logits(self, tokens: Sequence[int], first: int) -> Any:
        """Return the logits from a position on, float32 [len(tokens) - first, n_vocab]."""
        found, _ = self._step(tokens, None, len(tokens), len(tokens) - first, cached=False)
        return found[0, first - len(tokens) :].float().numpy()

    def generate(self, tokens: Sequence[int], most: int, stops: Collection[int]) -> Iterator[int]:
        """Yield the likeliest next tokens."""
        fed, past, length = list(tokens), None, len(tokens)
        for _ in range(most):
            found, past = self._step(fed, past, length, 1, cached=True)
            token = int(found[0, -1].argmax())
            if token in stops:
                return
            yield token
            fed = [token]
            length += 1

    def weight_bytes(self) -> int | None:
        """Return the bytes that the weights take when they are saved: shared ones count once."""
        if self._weight_bytes:
            return self._weight_bytes()
        return saved_bytes(self._model)

    def _step(self, fed: Sequence[int], past: Any, length: int, keep: int, *, cached: bool) -> tuple[Any, Any]:
        """Run the model on ids behind what `past` holds; `length` counts both."""
        import torch

        more: dict[str, Any] = {"logits_to_keep": keep} if self._can_keep else {}
        if past is not None:
            more["past_key_values"] = past
        with torch.inference_mode():
            out = self._model(
                input_ids=torch.tensor([list(fed)]),
                attention_mask=torch.ones(1, length, dtype=torch.long),
                use_cache=cached,
                **more,
            )
        return out.logits, out.past_key_values if cached else None


def saved_bytes(model: Any) -> int | None:
    """Count what torch.save writes for a model's weights, packed ones included; nothing is kept."""
    import torch

    counter = _Counter()
    try:
        torch.save(model.state_dict(), counter)
    except Exception:  # noqa: BLE001 - each system's weights fail in their own way, and the figure is not needed
        return None
    return counter.count


class _Counter(io.RawIOBase):
    """A file that only counts."""

    count = 0

    def writable(self) -> bool:
        return True

    def write(self, content: Any) -> int:
        size = memoryview(content).nbytes
        self.count += size
        return size
