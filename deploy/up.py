"""``python -m deploy.up``, which is ``deploy/up``: may a stack start here and now, and what becomes of it.

Admission comes first: the folder's lock and the port's claim, which the kernel frees with this process. Of any number
of starts at one time on one port or one folder exactly one goes on; the others say in one line who that is, and end
with 2. Exit codes: 0 ended as asked, 1 stopped before it was ready, 2 not possible (one line on stderr).
"""

from __future__ import annotations

import asyncio
import signal
import socket
import sys

from deploy.claim import PortClaim
from deploy.detach import adopted, follow
from deploy.folder import Folder, NotPossible
from deploy.options import Options, parse
from deploy.remains import Running, running
from deploy.stack import Stack, Stopped, tell


def admit(options: Options, folder: Folder, claim: PortClaim) -> None:
    """Take port and folder for this process. NotPossible says who has them."""
    if not claim.take():
        pid = claim.holder()
        stack = next((stack for stack in running() if stack.pid == pid), None)
        raise NotPossible(_taken(f"port {options.port}", pid, stack))
    _require_free(options.bind, options.port, "--port")
    if options.dashboard_port:
        _require_free("127.0.0.1", options.dashboard_port, "--dashboard-port")
    folder.open()
    if not folder.lock():
        state = folder.state()
        raise NotPossible(
            f"{folder.path} is in use by the stack on port {state.get('port', 'of another start')}"
            f" (pid {state.get('pid', 'unknown')}); choose another --data-dir."
        )


def _taken(what: str, pid: int, stack: Running | None) -> str:
    who = f"pid {pid}" if pid else "another process"
    if stack is None or stack.phase == "starting":
        down = f"; wait for it, or end it with {stack.down()}" if stack else ""
        return f"{what.capitalize()} is being started by {who}{down}."
    if stack.phase == "stopping":
        return f"{what.capitalize()} is being stopped by {who}; try again in a few seconds."
    return f"Already running on {what} ({who}); end it with {stack.down()}."


def _require_free(address: str, port: int, option: str) -> None:
    """NotPossible if somebody listens there."""
    try:
        with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((address, port))
    except OSError as error:
        raise NotPossible(
            f"Port {port} of {address} can't be had ({error.strerror}); choose another with {option}."
        ) from error


async def live(options: Options, folder: Folder) -> int:
    """The whole life of one stack; returns the exit code."""
    stack = Stack(options, folder)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, stack.ask_to_stop)
    code, failure, began = 0, "", False
    try:
        await stack.up()
        began = True
        stack.tell_ready()
        await stack.watch()
    except NotPossible as problem:
        code, failure = 2, str(problem)
        tell(f"deploy/up: {failure}", sys.stderr)
    except Stopped:
        code = 1
    finally:
        await stack.down(in_order=began)
        if not began:
            folder.undo(keep=failure)
    if not failure:
        stack.say("stopped")
    return code


def main() -> int:
    options = parse(sys.argv[1:])
    folder, claim = Folder(options.port, options.data_dir), PortClaim(options.port)
    # Once the loop runs, Ctrl-C asks the stack to stop; before it there is nothing to be stopped.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        if not adopted(folder, claim):
            admit(options, folder, claim)
            if options.detach:
                return follow(folder, claim, sys.argv[1:])
        return asyncio.run(live(options, folder))
    except NotPossible as problem:
        tell(f"deploy/up: {problem}", sys.stderr)
        return 2
    except KeyboardInterrupt:
        folder.undo(keep="")
        tell("deploy/up: Stopped before anything was started.", sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
