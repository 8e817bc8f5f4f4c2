"""The tables and functions in the database: made and brought up to date by whoever starts first.

Everything stands in one schema, which ``store.prefix`` names. ``sql/layout_<n>.sql`` are run in order, each once; the
table ``layout`` says up to which. That happens in one transaction, under an advisory lock: of two hosts that start at
one moment the second waits and finds it done, and one that is killed in the middle has done nothing. A host that finds
everything as it should be takes no lock and writes nothing, so it needs no right to make tables.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import asyncpg

from actors.errors import Misconfigured
from actors.model import SCHEMA_VERSION
from actors.settings import StoreSettings
from actors.stores.codec import newer_schema
from actors.stores.postgres_errors import one_line
from actors.stores.postgres_functions import FUNCTIONS, SQL_FOLDER, Functions


def load_layouts(folder: Path = SQL_FOLDER) -> tuple[str, ...]:
    """The statements that lead from each layout to the next, the first from nothing to layout 1."""
    count = len(list(folder.glob("layout_*.sql")))
    return tuple((folder / f"layout_{number}.sql").read_text("utf-8") for number in range(1, count + 1))


LAYOUTS: Final = load_layouts()
TABLES: Final = ("layout", "sessions", "turns", "remains", "ring", "members", "spares", "beats")
RELATIONS: Final = (*TABLES, "lives")


@dataclass(frozen=True, slots=True)
class Found:
    """What there is. ``layout`` 0: nothing of ours."""

    layout: int
    schema_version: int
    functions: int
    refused: str = ""
    """A table that this user may not read and write; "" if there is none."""

    @property
    def made(self) -> tuple[int, int, int]:
        return (self.layout, self.schema_version, self.functions)


async def prepare(
    connection: Any,
    settings: StoreSettings,
    functions: Functions = FUNCTIONS,
    layouts: Sequence[str] = LAYOUTS,
) -> None:
    """Make what is missing. Misconfigured if it is a newer program's, somebody else's, or forbidden."""
    schema, wanted = settings.prefix, (len(layouts), SCHEMA_VERSION, len(functions.sources))
    found = await _look(connection, schema, functions, len(layouts))
    if found.made != wanted:
        async with connection.transaction(isolation="read_committed"):
            await connection.execute("SELECT pg_advisory_xact_lock($1)", _lock(schema))
            found = await _look(connection, schema, functions, len(layouts))
            try:
                await _make(connection, schema, found, functions, layouts)
            except asyncpg.InsufficientPrivilegeError as error:
                raise Misconfigured(
                    f"The user in store.url may not make the tables in schema {schema!r} ({one_line(error)}):"
                    " let one start it once who may, or grant it."
                ) from error
        found = await _look(connection, schema, functions, len(layouts))
    if found.refused:
        raise Misconfigured(
            f"The user in store.url may not read and write the table {schema}.{found.refused}: grant it SELECT,"
            " INSERT, UPDATE and DELETE."
        )


async def _look(connection: Any, schema: str, functions: Functions, layout_max: int) -> Found:
    """Misconfigured if what is there can't be used."""
    row = await connection.fetchrow(
        _LOOK, schema, list(RELATIONS), [f"{name}_{functions.digest}" for name in functions.sources]
    )
    relations = frozenset(row["relations"])
    if not relations:
        return Found(0, 0, row["functions"])
    if row["of_layout"] != 2:
        first = "layout" if "layout" in relations else min(relations)
        raise _foreign(schema, first)
    try:
        layouts = await connection.fetch(f'SELECT layout, schema_version FROM "{schema}".layout')
    except asyncpg.InsufficientPrivilegeError:
        raise Misconfigured(f"The user in store.url may not read the table {schema}.layout: grant it.") from None
    if len(layouts) != 1:
        raise _foreign(schema, "layout")
    layout, schema_version = layouts[0]
    if layout > layout_max:
        raise Misconfigured(
            f"The tables in schema {schema!r} have layout {layout}, but this program knows only up to {layout_max}:"
            " start the newer program again, or give this one another store.prefix."
        )
    if schema_version > SCHEMA_VERSION:
        raise newer_schema("Something", schema_version)
    if missing := sorted(set(RELATIONS) - relations):
        raise Misconfigured(
            f"The table {schema}.{missing[0]} is missing in the database: restore it, or choose another store.prefix."
        )
    return Found(layout, schema_version, row["functions"], row["refused"] or "")


async def _make(connection: Any, schema: str, found: Found, functions: Functions, layouts: Sequence[str]) -> None:
    # Not IF NOT EXISTS: that asks for the right to make one, which who was given a schema needn't have.
    if not await connection.fetchval("SELECT EXISTS (SELECT FROM pg_namespace WHERE nspname = $1)", schema):
        await connection.execute(f'CREATE SCHEMA "{schema}"')
    for text in layouts[found.layout :]:
        await connection.execute(functions.placed(schema, text))
    if (found.layout, found.schema_version) != (len(layouts), SCHEMA_VERSION):
        await connection.execute(
            f'UPDATE "{schema}".layout SET layout = $1, schema_version = $2', len(layouts), SCHEMA_VERSION
        )
    if found.functions != len(functions.sources):
        # Those that are there already have the same text, or their names would have another digest.
        for source in functions.sources.values():
            await connection.execute(functions.placed(schema, source))


def _foreign(schema: str, table: str) -> Misconfigured:
    return Misconfigured(f"The table {schema}.{table} in the database isn't Rehydra's: choose another store.prefix.")


def _lock(schema: str) -> int:
    """Of this schema alone; two that share a number would only wait for each other."""
    return int.from_bytes(hashlib.sha256(f"rehydra:{schema}".encode()).digest()[:8], "big", signed=True)


_LOOK: Final = """
SELECT ARRAY(SELECT c.relname::text FROM pg_class AS c
              WHERE c.relnamespace = n.oid AND c.relname = ANY ($2::text[])) AS relations,
       (SELECT count(*) FROM pg_proc AS p
         WHERE p.pronamespace = n.oid AND p.proname = ANY ($3::text[])) AS functions,
       (SELECT count(*) FROM pg_class AS c JOIN pg_attribute AS a ON a.attrelid = c.oid
         WHERE c.relnamespace = n.oid AND c.relname = 'layout' AND c.relkind = 'r'
           AND a.attname IN ('layout', 'schema_version') AND a.atttypid = 'int4'::regtype) AS of_layout,
       (SELECT min(c.relname::text) FROM pg_class AS c
         WHERE c.relnamespace = n.oid AND c.relname = ANY ($2::text[]) AND c.relkind = 'r'
           AND NOT (has_table_privilege(c.oid, 'SELECT') AND has_table_privilege(c.oid, 'INSERT')
                    AND has_table_privilege(c.oid, 'UPDATE') AND has_table_privilege(c.oid, 'DELETE'))) AS refused
  FROM (SELECT (SELECT oid FROM pg_namespace WHERE nspname = $1) AS oid) AS n
"""
