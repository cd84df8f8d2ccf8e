"""The text of a sweep's file, so that an error names the line it is about."""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from bench.core.errors import ConfigError
from bench.core.fields import one_line

Section = int | str
"""A part of the file: a block by its number, "tuning" or "claims"."""


class Source:
    """The file's text: says where in it an error is."""

    def __init__(self, path: Path, text: str):
        self.path = path
        self.lines = [line.partition("#")[0] for line in text.splitlines()]
        self.sections: list[Section] = []
        """Of each line."""
        block = 0
        section: Section = 0
        for line in self.lines:
            if header := re.match(r"\s*\[\[?\s*([a-z]\w*)\s*(\.|\]\]?)", line):
                name = header[1]
                block += name == "also" and header[2] == "]]"
                section = block if name == "also" else name if name in ("tuning", "claims") else 0
            self.sections.append(section)

    @contextmanager
    def errors(self, section: Section = 0) -> Iterator[None]:
        """An error inside gets the place of what it names, looked for in that section first."""
        try:
            yield
        except ValidationError as error:
            items = error.errors()
            line, words = one_line(error), []
            for item in items:
                if isinstance(item["input"], Mapping):  # the whole table says nothing
                    line = line.replace(f": {item['input']!r} is not accepted", "", 1)
                    words += _named(item["msg"].removeprefix("Value error, "))
                words += reversed(item["loc"])
            match items[0]["loc"]:
                case (("tuning" | "claims") as name, *_):
                    section = name
                case ("also", int(number), *_):
                    section = number + 1
            line = line.replace("valid tuple", "valid list")
            raise ConfigError(f"{self.place([*words, *_named(line)], section)}: {line}") from None
        except ConfigError as error:
            raise ConfigError(f"{self.place(_named(error), section)}: {error}") from None

    def place(self, words: list[Any], section: Section) -> str:
        """`file:line` of the first line that holds one of the words, else the file."""
        inside = [number for number, found in enumerate(self.sections) if found == section]
        for numbers in (inside, range(len(self.lines))):
            for word in (word for word in words if isinstance(word, str)):
                key = rf"(?<!\w){re.escape(word)}(?![\w.])"
                for number in numbers:
                    if re.search(key, self.lines[number]):
                        return f"{self.path}:{number + 1}"
        return str(self.path)


def _named(error: object) -> list[str]:
    """What an error quotes, then the key that it begins with."""
    key = str(error).partition(":")[0]
    return [*re.findall(r"'([^']+)'", str(error)), key, key.rpartition(".")[2]]
