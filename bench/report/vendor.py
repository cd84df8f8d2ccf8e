"""`python -m bench.report.vendor`: the page's libraries from the npm registry, as vendor.json says.

Packages are fetched by npm and checked against the sums in the file, unless --accept writes the
sums of what came. Versions are changed by hand, in the file.
"""

import argparse
import hashlib
import json
import subprocess
import tarfile
import tempfile
from pathlib import Path

from bench.core.errors import BenchError, ConfigError
from bench.report.html import ASSETS, licence_of

VENDOR = ASSETS / "vendor"
LIST = VENDOR / "vendor.json"


def main() -> None:
    parser = argparse.ArgumentParser(description="Fetch the page's libraries.")
    parser.add_argument("--accept", action="store_true", help="write the sums of what came")
    accept = parser.parse_args().accept
    listed = json.loads(LIST.read_text())
    for name, entry in listed.items():
        content, licence = fetched(entry)
        found = hashlib.sha256(content).hexdigest()
        if found != entry["sha256"] and not accept:
            raise SystemExit(f"{name}: SHA-256 is {found}, and {LIST.name} says {entry['sha256']}")
        entry["sha256"] = found
        (VENDOR / name).write_bytes(content)
        (VENDOR / licence_of(name)).write_bytes(licence)
    LIST.write_text(json.dumps(listed, indent=2) + "\n")


def fetched(entry: dict[str, str]) -> tuple[bytes, bytes]:
    """A package's file and its licence. Raises ConfigError without npm, BenchError without it."""
    named = f"{entry['package']}@{entry['version']}"
    with tempfile.TemporaryDirectory() as folder:
        try:
            done = subprocess.run(
                ["npm", "pack", "--silent", named], cwd=folder, capture_output=True, text=True
            )
        except FileNotFoundError as error:
            raise ConfigError("npm: is not installed; it fetches the page's libraries") from error
        archives = list(Path(folder).glob("*.tgz"))
        if done.returncode or not archives:
            raise BenchError(f"{named} could not be fetched: {done.stderr.strip()[:300]}")
        with tarfile.open(archives[0]) as archive:
            parts = [archive.extractfile(f"package/{n}") for n in (entry["file"], "LICENSE")]
            content, licence = (part.read() for part in parts if part is not None)
    return content, licence


if __name__ == "__main__":
    main()
