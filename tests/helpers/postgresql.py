"""A PostgreSQL server of one's own on loopback, in a temporary folder, which can be restarted."""

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest


class Server:
    """Running from its making on. Raises pytest's skip where PostgreSQL is not installed."""

    def __init__(self):
        binary = next(iter(sorted(Path("/usr/lib/postgresql").glob("*/bin/pg_ctl"))), None)
        if binary is None:
            pytest.skip("PostgreSQL is not installed (Debian: apt-get install postgresql)")
        pytest.importorskip("psycopg")
        self.folder = Path(tempfile.mkdtemp(prefix="pg-"))
        self._owner = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
        if self._owner:
            shutil.chown(self.folder, "postgres")
        self._port, self._control = 20000 + os.getpid() % 20000, binary
        self._run(
            binary.with_name("initdb"), "-D", self.folder / "data", "-A", "trust", "-U", "bench"
        )
        self.url = f"postgresql+psycopg://bench:secret@127.0.0.1:{self._port}/postgres"
        self.start()

    def _run(self, *arguments):
        command = [*self._owner, *map(str, arguments)]
        subprocess.run(command, check=True, capture_output=True, cwd=self.folder)

    def start(self):
        options = (
            f"-p {self._port} -c listen_addresses=127.0.0.1 "
            f"-c unix_socket_directories={self.folder}"
        )
        log = self.folder / "log"
        self._run(
            self._control, "-D", self.folder / "data", "-w", "-l", log, "-o", options, "start"
        )

    def stop(self):
        """At once, without waiting for anybody, as a power cut does."""
        self._run(self._control, "-D", self.folder / "data", "-m", "immediate", "stop")

    def remove(self):
        shutil.rmtree(self.folder, ignore_errors=True)
