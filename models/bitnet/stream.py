"""Text of tokens as they come: complete characters, up to a stop string, never a part of one."""

from collections.abc import Iterator, Sequence

from .tokenizer import StreamDecoder


class StopFilter:
    """Passes text on up to the first of some strings to be complete.

    What may be the beginning of one is held back until more text shows that it is not.

    Attributes:
        stopped: whether one of the strings came; no text is passed on after that.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self.stopped = False
        self._stops = [stop for stop in stops if stop]
        self._held = ""

    def push(self, text: str) -> str:
        """What is now known to stand before any stop string."""
        if self.stopped:
            return ""
        self._held += text
        found = [(at + len(s), at) for s in self._stops if (at := self._held.find(s)) >= 0]
        if found:
            self.stopped = True
            return self._release(min(found)[1])
        return self._release(len(self._held) - self._longest_beginning())

    def finish(self) -> str:
        """What is left at the end of the text, which was no stop string after all."""
        return "" if self.stopped else self._release(len(self._held))

    def _release(self, count: int) -> str:
        text, self._held = self._held[:count], self._held[count:]
        return text

    def _longest_beginning(self) -> int:
        """How many of the last characters are the first ones of a stop string."""
        longest = max((len(stop) for stop in self._stops), default=1) - 1
        for count in range(min(longest, len(self._held)), 0, -1):
            if any(stop.startswith(self._held[-count:]) for stop in self._stops):
                return count
        return 0


class TextStream:
    """The text of tokens as they come, piece by piece.

    Joined, the pieces are the decoded tokens, up to the first stop string: a character whose bytes
    are spread over tokens comes when it is complete, and what never becomes one at the end is
    U+FFFD.

    Attributes:
        tokens: those that have come.
    """

    def __init__(
        self, source: Iterator[int], decoder: StreamDecoder, stops: Sequence[str] = ()
    ) -> None:
        self.tokens: list[int] = []
        self._source = source
        self._decoder = decoder
        self._filter = StopFilter(stops)

    @property
    def stopped(self) -> bool:
        """Whether a stop string came."""
        return self._filter.stopped

    def __iter__(self) -> Iterator[str]:
        for token in self._source:
            self.tokens.append(token)
            yield self._filter.push(self._decoder.push(token))
            if self.stopped:
                return
        yield self._filter.push(self._decoder.finish())
        yield self._filter.finish()
