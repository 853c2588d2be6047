"""A model that answers, with the adapters it was given by name."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..graph.errors import BitgraphError
from ..models.adapters.formats import read_adapter
from ..models.adapters.lora import LoraAdapter, check_fits
from ..models.adapters.stacking import stack
from ..models.bitnet.config import BitNetConfig, projection_shapes
from ..models.bitnet.generate import Generator, Sampling
from ..models.bitnet.stream import TextStream
from ..models.bitnet.tokenizer import Tokenizer


@dataclass(frozen=True, eq=False)
class NamedAdapter:
    """An adapter with the name it goes by, and the factor it begins with."""

    name: str
    adapter: LoraAdapter
    scale: float


class Adapters:
    """Adapters by name, each with a factor that can change.

    All of them stay in the model; a factor of 0 leaves one out. So changing factors loads tensors
    and compiles nothing.
    """

    def __init__(self, named: Sequence[NamedAdapter], used: Iterable[str] | None) -> None:
        """Take over adapters.

        Args:
            named: the adapters.
            used: names of those that are not left out, None for all.

        Raises:
            BitgraphError: a name occurs twice, or is not known.
        """
        self._adapters = {item.name: item.adapter for item in named}
        self._scales = {item.name: item.scale for item in named}
        if len(self._adapters) < len(named):
            names = ", ".join(item.name for item in named)
            raise BitgraphError(f"two adapters have the same name ({names}); use --lora NAME=PATH")
        if used is not None:
            chosen = {self._known(name) for name in used}
            self._scales = {n: s if n in chosen else 0.0 for n, s in self._scales.items()}

    @property
    def names(self) -> str:
        """The names of all, for people."""
        return " + ".join(self._adapters)

    def set_scale(self, name: str, scale: float) -> None:
        """Change a factor.

        Raises:
            BitgraphError: there is no adapter of that name.
        """
        self._scales[self._known(name)] = scale

    def together(self) -> LoraAdapter | None:
        """What all of them do together, None if there are none."""
        parts = [(adapter, self._scales[name]) for name, adapter in self._adapters.items()]
        return stack(parts) if parts else None

    def _known(self, name: str) -> str:
        if name not in self._adapters:
            known = ", ".join(self._adapters) or "none"
            raise BitgraphError(f"there is no adapter {name!r}; those given by --lora are: {known}")
        return name


@dataclass(frozen=True, eq=False)
class Session:
    """All that an answer needs.

    Attributes:
        tokenizer: of the model.
        generator: the model.
        adapters: that it uses.
        sampling: how tokens are chosen.
        max_tokens: the longest answer.
        stops: strings that end one.
    """

    tokenizer: Tokenizer
    generator: Generator
    adapters: Adapters
    sampling: Sampling
    max_tokens: int
    stops: tuple[str, ...]

    def answer(self, ids: list[int]) -> TextStream:
        """The text that follows some tokens."""
        tokens = self.generator.generate(
            ids, self.sampling, self.tokenizer.stop_ids, self.max_tokens
        )
        return TextStream(tokens, self.tokenizer.stream(), self.stops)

    def set_scale(self, name: str, scale: float) -> None:
        """Change the factor of an adapter."""
        self.adapters.set_scale(name, scale)
        self.generator.use(self.adapters.together())


def parse_adapter(text: str, config: BitNetConfig) -> NamedAdapter:
    """Read `[NAME=]PATH[@SCALE]`; a path that exists as it is written is taken so.

    Raises:
        BitgraphError: the adapter cannot be read, or does not fit the model.
    """
    name, path, scale = _split(text)
    adapter = read_adapter(path, config)
    try:
        check_fits(adapter, projection_shapes(config))
    except BitgraphError as error:
        raise BitgraphError(f"{path}: {error}") from None
    return NamedAdapter(name, adapter, scale)


def _split(text: str) -> tuple[str, Path, float]:
    if Path(text).exists():
        return Path(text).resolve().name, Path(text), 1.0
    name, equals, rest = text.partition("=")
    rest = rest if equals else text
    path, at, number = rest.rpartition("@")
    if not at or Path(rest).exists():
        return name if equals else Path(rest).name, Path(rest), 1.0
    return name if equals else Path(path).name, Path(path), parse_scale(number)


def parse_scale(text: str) -> float:
    """A factor of an adapter.

    Raises:
        BitgraphError: it is not a number of a reasonable size.
    """
    try:
        scale = float(text)
    except ValueError:
        scale = float("nan")
    if not abs(scale) <= 1e6:
        raise BitgraphError(f"the scale {text!r} of an adapter is not a number; give 1 for its own")
    return scale
