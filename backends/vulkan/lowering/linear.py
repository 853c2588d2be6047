"""Rules and meanings of the kernels for the family `linear`."""

from .calls import Meaning, Rule

RULES: dict[str, Rule] = {}
MEANINGS: dict[str, Meaning] = {}
