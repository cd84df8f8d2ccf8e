"""A folder of generated files with a manifest: the names that the command wrote, and no other's."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from bench.cli.console import read_text, write_file
from bench.core.errors import ConfigError
from bench.core.files import is_stale


@dataclass(frozen=True)
class OutputFolder:
    """What one command writes into a folder that may hold other files as well."""

    path: Path
    manifest: str
    """File of the names that are the command's own, sorted, a JSON list."""

    def own(self) -> list[str]:
        """The names that the command wrote here before. Raises ConfigError for no such list."""
        file = self.path / self.manifest
        if not file.is_file():
            return []
        try:
            names = json.loads(read_text(file))
        except json.JSONDecodeError:
            names = None
        if not isinstance(names, list) or not all(map(_is_inside, names)):
            raise ConfigError(f"{str(file)!r} is not accepted: a JSON list of names of files here")
        return names

    def stale(self, made: Mapping[str, bytes]) -> list[str]:
        """Files that are missing or of other bytes, and own ones that are made no more."""
        left = [name for name in self._left(made) if (self.path / name).is_file()]
        expected = {**made, self.manifest: _list(made)}
        return [n for n, content in expected.items() if is_stale(self.path / n, content)] + left

    def write(self, made: Mapping[str, bytes]) -> None:
        """Write the files, and remove own ones that are made no more.

        Raises ConfigError before the first of them where another's file is in the place of one.
        """
        own, left = set(self.own()), self._left(made)
        for name, content in made.items():
            file = self.path / name
            if name not in own and file.is_file() and file.read_bytes() != content:
                raise ConfigError(
                    f"out: {str(file)!r} is there and not in {self.manifest}, so it is not "
                    "replaced: move it, or name another folder"
                )
        # Until the last file is written the manifest names the old and the new ones.
        write_file(self.path / self.manifest, _list({*own, *made}))
        for name, content in made.items():
            write_file(self.path / name, content)
        for name in left:
            (self.path / name).unlink(missing_ok=True)
        write_file(self.path / self.manifest, _list(made))

    def _left(self, made: Mapping[str, bytes]) -> list[str]:
        return [name for name in self.own() if name not in made]


def _is_inside(name: object) -> bool:
    if not isinstance(name, str) or not name:
        return False
    path = PurePosixPath(name)
    return not path.is_absolute() and ".." not in path.parts


def _list(names: Iterable[str]) -> bytes:
    return (json.dumps(sorted(names), indent=0, ensure_ascii=False) + "\n").encode()
