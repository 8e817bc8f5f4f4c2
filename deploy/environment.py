"""The environment of everything that a stack starts: its mark, its settings, and a Ray that keeps to itself."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from actors.stores.url import shown
from deploy.folder import LOGS, ROOT, Folder, NotPossible
from deploy.options import STORES, Options
from deploy.processes import MARK

# Whose cluster is meant by them is not this one.
_FOREIGN = ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS", "RAY_NAMESPACE", "RAY_JOB_CONFIG_JSON_ENV_VAR", "RAY_AUTH_TOKEN")

_RAY = {
    "RAY_USAGE_STATS_ENABLED": "0",
    # Ray runs its workers at nice 15; a host that serves people is not a batch job.
    "RAY_worker_niceness": "0",
    "RAY_AUTH_MODE": "token",
    "RAY_DEDUP_LOGS": "0",
    # Nobody looks at them here, and each costs a beat of a small machine.
    "RAY_enable_metrics_collection": "0",
    "RAY_task_events_report_interval_ms": "0",
    "RAY_SERVE_LOG_TO_STDERR": "0",
}


_TOLD_OTHERWISE = {
    "REHYDRA_EDGE__PORT": "--port", "REHYDRA_EDGE__BIND": "--bind", "REHYDRA_EDGE__RUN_DIR": "--data-dir",
}  # fmt: skip
"""Settings that ``deploy/up`` makes itself, and how to tell it."""


def environment(options: Options, folder: Folder) -> dict[str, str]:
    """What the user has set stays, save for what would tie the stack to somebody else's.

    NotPossible if it is a setting that would be overruled here: whoever set it would wait for it in vain.
    """
    for name, instead in (_TOLD_OTHERWISE | {"REHYDRA_STORE__URL": " and ".join(STORES[options.store])}).items():
        if name in os.environ:
            raise NotPossible(f"{name} is set, which deploy/up doesn't follow: use {instead} instead, and unset it.")
    env = {name: value for name, value in os.environ.items() if name not in _FOREIGN}
    # Ten processes that compile every module anew take twice as long to start.
    env.pop("PYTHONDONTWRITEBYTECODE", None)
    env |= _RAY
    env[MARK] = folder.mark
    env["RAY_AUTH_TOKEN_PATH"] = str(_token(folder))
    # The agent may live where the user stands.
    paths = [str(ROOT), os.getcwd(), env.get("PYTHONPATH", "")]
    env["PYTHONPATH"] = os.pathsep.join(dict.fromkeys(path for path in paths if path))
    env["REHYDRA_EDGE__BIND"] = options.bind
    env["REHYDRA_EDGE__PORT"] = str(options.port)
    env["REHYDRA_EDGE__RUN_DIR"] = str(folder.short / "edge")
    env.setdefault("REHYDRA_EDGE__SECRET", folder.secret("secret"))
    if "REHYDRA_SEALED__KEYS_FILE" not in env:
        env.setdefault("REHYDRA_SEALED__KEYS", folder.secret("sealed-key"))
    env.setdefault("REHYDRA_LOG__FOLDER", str(folder.path / LOGS))
    if options.agent:
        env["REHYDRA_AGENT__PATH"] = options.agent
    if url := store_url(options):
        env["REHYDRA_STORE__URL"] = url
    if any(given(options)):
        # Two stacks on one store are two stacks, not one with hosts that can't reach each other.
        env.setdefault("REHYDRA_STORE__PREFIX", f"rehydra-{options.port}")
    return env


def given(options: Options) -> list[str]:
    """The servers of the store that run already and are to be used; "" in place of each that the stack is to start."""
    return [os.environ.get(variable, "") for variable in STORES[options.store]]


def store_url(options: Options) -> str:
    """The store, if all of it runs already; "" if the stack is to start something of its own."""
    return joined(given(options)) if all(given(options)) else ""


def joined(urls: Sequence[str]) -> str:
    """The URL of a store: that of its one server, or those of its Redis and its PostgreSQL."""
    return urls[0] if len(urls) == 1 else f"hybrid+{urls[0]}+{urls[1]}"


def shown_url(url: str) -> str:
    """The address without user, password and options."""
    return shown(url)


def _token(folder: Folder) -> Path:
    folder.secret("ray-token")
    return folder.path / "ray-token"
