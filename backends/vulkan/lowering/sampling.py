"""Rules and meanings of the kernels for the family `sampling`."""

from .calls import Meaning, Rule

RULES: dict[str, Rule] = {}
MEANINGS: dict[str, Meaning] = {}
