"""From the bytes of tokens to text that may be shown: whole characters only, and nothing past a stop string."""

import codecs
from collections.abc import Sequence


class TextStream:
    """Takes the bytes of one token after another and gives out the text that is certain.

    A character split over tokens appears when it is whole; bytes that are not UTF-8 become U+FFFD, none vanish. Text
    that may be the beginning of a stop string is held back until that is decided.
    """

    def __init__(self, stop: Sequence[str] = ()) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._stop = tuple(stop)
        self._held = ""
        self.stopped_by: str | None = None
        self.passes = not stop  # whether a whole character would be given out as it is

    def feed(self, data: bytes) -> str:
        """Return the text that has become certain; after a stop string was met, the text before it and no more."""
        text = self._decoder.decode(data)
        if not self._stop:
            self.passes = not self._decoder.getstate()[0]
            return text
        return self._take(text)

    def finish(self) -> str:
        """Return what was held back: half a character as U+FFFD, half a stop string as it is."""
        text = self._take(self._decoder.decode(b"", final=True))
        if self.stopped_by is None:
            text, self._held = text + self._held, ""
        return text

    def _take(self, text: str) -> str:
        if self.stopped_by is not None:
            return ""
        if not self._stop:
            return text
        text = self._held + text
        found = [(at, stop) for stop in self._stop if (at := text.find(stop)) >= 0]
        if found:
            at, self.stopped_by = min(found)
            self._held = ""
            return text[:at]
        keep = max(_overlap(text, stop) for stop in self._stop)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]


def _overlap(text: str, stop: str) -> int:
    """Return the length of the longest end of `text` that is a beginning of `stop`."""
    longest = min(len(text), len(stop) - 1)
    return next((length for length in range(longest, 0, -1) if text.endswith(stop[:length])), 0)
