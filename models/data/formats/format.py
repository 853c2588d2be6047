"""What a format is, and how the fields of its records are read."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from ....graph.errors import BitgraphError
from ..records import Record, Role


@dataclass(frozen=True)
class Format:
    """One form of JSON records.

    Attributes:
        name: for people.
        field: the one that tells a record of this form from others.
        template: name of the template that its records are rendered with unless one is chosen,
            None for text that is taken as it is.
        read: makes a record of a JSON object; the second argument says where that stands.
    """

    name: str
    field: str
    template: str | None
    read: Callable[[Mapping[str, object], str], Record]


def text_field(item: Mapping[str, object], field: str, where: str) -> str:
    """A field that must be there and be text.

    Raises:
        BitgraphError: it is not.
    """
    if field not in item:
        raise BitgraphError(f"{where} lacks '{field}'; add it or remove the record")
    value = item[field]
    if not isinstance(value, str):
        raise BitgraphError(f"{where}: '{field}' is not a string; write it in quotes")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise BitgraphError(
            f"{where}: '{field}' holds a lone surrogate escape, which is not valid Unicode; "
            "remove it"
        ) from error
    return value


def turn_fields(
    item: Mapping[str, object], field: str, where: str
) -> list[tuple[Mapping[str, object], str]]:
    """The objects in a field that lists what is said, each with where it stands.

    Raises:
        BitgraphError: the field is not a list of objects, or is empty.
    """
    turns = item.get(field)
    if not isinstance(turns, list):
        raise BitgraphError(f"{where}: '{field}' is not a list; give one of objects")
    if not turns:
        raise BitgraphError(f"{where}: '{field}' is empty; add what is said or remove the record")
    for number, turn in enumerate(turns):
        if not isinstance(turn, dict):
            raise BitgraphError(f"{where}: {field}[{number}] is not an object; see the others")
    return [(turn, f"{where}: {field}[{number}]") for number, turn in enumerate(turns)]


def role_field(
    item: Mapping[str, object], field: str, roles: Mapping[str, Role], where: str
) -> Role:
    """Who says something, by the format's own names.

    Raises:
        BitgraphError: the role is not one of these.
    """
    name = text_field(item, field, where)
    if name not in roles:
        known = ", ".join(roles)
        raise BitgraphError(f"{where}: '{field}' is {name[:40]!a}, which is not one of {known}")
    return roles[name]
