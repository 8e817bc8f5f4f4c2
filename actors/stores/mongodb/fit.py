"""Clients for MongoDB, and whether a server is fit to keep sessions. Asked before a host takes its first turn, and when
somebody asks if it is ready.

Each fault is one sentence (:class:`~actors.errors.Misconfigured`) that names the server, without its password, and what
to change. The calls block: whoever has an event loop asks from a thread.

Writes are acknowledged by a majority, on disk (``w=majority, j=true``), and are sent once. Reads are linearizable where
there is a replica set: a primary that was deposed and doesn't know yet must not tell a holder that its lease stands.
"""

from __future__ import annotations

import logging
import time
from datetime import datetime
from functools import lru_cache
from typing import Any, Final
from urllib.parse import urlsplit

import pymongo
from pymongo import MongoClient
from pymongo.errors import ConfigurationError, DuplicateKeyError, OperationFailure, PyMongoError
from pymongo.read_concern import ReadConcern
from pymongo.uri_parser import parse_uri
from pymongo.write_concern import WriteConcern

from actors.errors import Misconfigured
from actors.model import SCHEMA_VERSION
from actors.settings import Settings, StoreSettings
from actors.stores.codec import newer_schema
from actors.stores.mongodb import documents
from actors.stores.mongodb.errors import REFUSED, one_line

log = logging.getLogger(__name__)

SKEW_S_MAX: Final = 60.0
"""How far this host's clock may be from the server's: hosts' clocks decide when a session expires."""
DATABASE: Final = "rehydra"
"""Where the URL names none."""


def shown(url: str) -> str:
    """``url`` as it may appear in messages: without user, password and options."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def connect(url: str, timeout_s: float, connections_max: int) -> Any:
    """The database that ``url`` names. Connects with its first use. Misconfigured if the URL isn't one."""
    timeout_ms = max(1, int(timeout_s * 1000))
    try:
        if url.startswith("mongodb://"):
            # Else a wrong option is a warning, and then the default.
            parse_uri(url, validate=True, warn=False)
        client: MongoClient[dict[str, Any]] = MongoClient(
            url,
            serverSelectionTimeoutMS=timeout_ms,
            connectTimeoutMS=timeout_ms,
            timeoutMS=timeout_ms,
            maxPoolSize=connections_max,
            # Who asks knows whether a repeat is safe.
            retryWrites=False,
            retryReads=False,
            tz_aware=True,
            appname="rehydra",
        )
        return client.get_default_database(DATABASE).with_options(write_concern=WriteConcern("majority", j=True))
    except (PyMongoError, ValueError) as error:
        raise Misconfigured(f"store.url isn't one for MongoDB ({shown(url)}): {one_line(error)}") from None


def require_limits(settings: Settings) -> None:
    """Misconfigured unless every session that the settings allow fits into one document."""
    if settings.session.log_bytes_max > documents.LOG_BYTES_MAX:
        raise Misconfigured(
            f"session.log_bytes_max is {settings.session.log_bytes_max}; MongoDB keeps a session in one document"
            f" of 16 MB: set it to {documents.LOG_BYTES_MAX} or less, or choose another store."
        )
    session, agent = settings.session, settings.agent
    loaded_s = session.idle_s + agent.deadline_s + session.commit_patience_s
    if session.ttl_s and session.ttl_s <= loaded_s + 2 * SKEW_S_MAX:
        raise Misconfigured(
            f"session.ttl_s must exceed session.idle_s + agent.deadline_s + session.commit_patience_s by"
            f" {2 * SKEW_S_MAX:.0f} s: with MongoDB the hosts' clocks say what has expired, and they differ."
        )


def require_fit(settings: StoreSettings, begin: bool = False) -> Any:
    """The database, with the read concern that it can keep. Misconfigured unless it answers, lets us in, and is ours.

    ``begin``: note the schema_version and make the index by which the server clears away. Without, nothing is written.
    """
    where = shown(settings.url)
    database = _database(settings.url, settings.timeout_s)
    try:
        with pymongo.timeout(settings.timeout_s):
            concern = judged(database.client.admin.command("hello"), where, warn=begin)
            require_ours(database, settings.prefix)
            if begin:
                prepare(database, settings.prefix)
    except OperationFailure as error:
        if error.code in REFUSED:
            raise Misconfigured(
                f"The store at {where} doesn't let us in ({one_line(error)}): see user and password in store.url."
            ) from error
        raise Misconfigured(f"The store at {where} can't be used: {one_line(error)}") from error
    except ConfigurationError as error:
        raise Misconfigured(f"The store at {where} can't be used: {one_line(error)}") from error
    except PyMongoError as error:
        raise Misconfigured(f"The store at {where} can't be reached: {one_line(error)}") from error
    return database.with_options(read_concern=concern)


@lru_cache(maxsize=8)
def _database(url: str, timeout_s: float) -> Any:
    return connect(url, timeout_s, 1)


def judged(hello: Any, where: str, warn: bool = False) -> ReadConcern:
    """The read concern for a server that says this. Misconfigured: it takes no writes, or its clock differs."""
    if not hello.get("isWritablePrimary", hello.get("ismaster", False)):
        raise Misconfigured(f"The store at {where} is no primary, so it takes no writes: name the primary, or the set.")
    told = hello.get("localTime")
    skew_s = time.time() - told.timestamp() if isinstance(told, datetime) else 0.0
    if abs(skew_s) > SKEW_S_MAX:
        raise Misconfigured(
            f"This machine's clock is {skew_s:+.0f} s from that of the store at {where}; {SKEW_S_MAX:.0f} s are"
            " allowed, as it decides when sessions expire: set it (NTP)."
        )
    if "setName" in hello or hello.get("msg") == "isdbgrid":
        return ReadConcern("linearizable")
    if warn:
        log.warning("The store at %s is a single server: nothing takes over when it is lost.", where)
    return ReadConcern("local")


def require_ours(database: Any, prefix: str) -> None:
    """Misconfigured if a newer program has written here, or another one."""
    found = database[documents.schemas(prefix)].find_one({"_id": documents.SCHEMA})
    if found is None:
        return
    noted = found.get("schema_version")
    if not isinstance(noted, int):
        raise Misconfigured(
            f"The collection {documents.schemas(prefix)!r} in the store isn't Rehydra's: choose another store.prefix."
        )
    if noted > SCHEMA_VERSION:
        raise newer_schema("Something", noted)


def prepare(database: Any, prefix: str) -> None:
    """Note the schema_version, unless a newer one stands there by now; and have expired sessions cleared away."""
    ours = {"_id": documents.SCHEMA, "schema_version": {"$lte": SCHEMA_VERSION}}
    try:
        database[documents.schemas(prefix)].update_one(ours, {"$set": {"schema_version": SCHEMA_VERSION}}, upsert=True)
    except DuplicateKeyError:
        require_ours(database, prefix)
    database[documents.sessions(prefix)].create_index("expires_at", expireAfterSeconds=documents.CLEARED_AFTER_S)
