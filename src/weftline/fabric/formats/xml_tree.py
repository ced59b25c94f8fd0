"""XML as elements that know their line. No entity is ever expanded, no other file ever read."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from xml.parsers import expat

from weftline.errors import InputError


@dataclass(slots=True)
class Element:
    """One element, with what it holds."""

    name: str
    attributes: dict[str, str]
    line: int
    children: list[Element] = field(default_factory=list)

    def walk(self) -> Iterator[Element]:
        """It and all below it, in the order of the file."""
        yield self
        for child in self.children:
            yield from child.walk()

    def number(self, key: str, where: str) -> float:
        """An attribute as a number; raises InputError with its line."""
        try:
            return float(self.attributes.get(key, ""))
        except ValueError:
            value = self.attributes.get(key, "")
            raise InputError(f'<{self.name}> has {key}="{value}"', where=f"{where}:{self.line}",
                             hint="a number is expected") from None  # fmt: skip


def parse_xml(text: str, where: str, *, doctype: bool = False) -> Element:
    """The root of a document; raises InputError with the line of what is no XML.

    Document types and entities are refused; with ``doctype`` one that only names a file is passed
    over, and the file is not read.
    """
    parser = expat.ParserCreate()
    top = Element("", {}, 0)
    here = [top]

    def refuse(*_: object) -> None:
        raise InputError("a document type or entity is declared: refused",
                         where=f"{where}:{parser.CurrentLineNumber}")  # fmt: skip

    def declared(_name: str, _file: str | None, _public: str | None, inside: int) -> None:
        if inside or not doctype:
            refuse()

    def start(name: str, attributes: dict[str, str]) -> None:
        element = Element(name, attributes, parser.CurrentLineNumber)
        here[-1].children.append(element)
        here.append(element)

    parser.StartElementHandler = start
    parser.EndElementHandler = lambda _: here.pop() and None
    parser.StartDoctypeDeclHandler = declared
    parser.EntityDeclHandler = refuse
    try:
        parser.Parse(text, True)
    except expat.ExpatError as error:
        raise InputError(f"not XML: {expat.ErrorString(error.code)}",
                         where=f"{where}:{error.lineno}") from error  # fmt: skip
    return top.children[0]
