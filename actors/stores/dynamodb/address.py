"""What ``dynamodb://TABLE?region=...&endpoint=...&create=true`` says, and clients for it.

Credentials are never in the URL: they come from where AWS's own tools look for them (environment, profile, role).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from typing import Any, Final
from urllib.parse import parse_qsl, urlsplit

import botocore.session
from botocore.config import Config
from botocore.exceptions import BotoCoreError

from actors.errors import Misconfigured

_TABLE: Final = re.compile(r"[A-Za-z0-9_.-]{3,255}")


@dataclass(frozen=True, slots=True)
class Address:
    """A table. ``region`` and ``endpoint`` "": as AWS's own settings say. ``create``: make it if it is missing."""

    table: str
    region: str = ""
    endpoint: str = ""
    create: bool = False

    @classmethod
    def of(cls, url: str) -> Address:
        """Misconfigured says what is wrong with ``url``, without the secrets that may be in it."""
        try:
            parts = urlsplit(url)
            options = dict(parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query)))
        except ValueError as error:
            raise Misconfigured(f"store.url isn't one: {error}") from None
        if "@" in parts.netloc:
            raise Misconfigured(
                "store.url has a user or password in it; for DynamoDB credentials come from AWS_ACCESS_KEY_ID and"
                " AWS_SECRET_ACCESS_KEY, a profile, or a role."
            )
        if not _TABLE.fullmatch(parts.netloc) or parts.path not in ("", "/"):
            raise Misconfigured(
                f"store.url names no table ({parts.netloc + parts.path!r}); it is dynamodb://TABLE?region=...&endpoint=...,"
                " and a table's name has 3 to 255 letters, digits, '_', '-' or '.'."
            )
        if unknown := sorted(options.keys() - {"region", "endpoint", "create"}):
            raise Misconfigured(f"store.url has the option {unknown[0]!r}; region, endpoint and create are known.")
        create = options.get("create", "false")
        if create not in ("true", "false"):
            raise Misconfigured(f"store.url: create is {create!r}; it is true or false.")
        endpoint = options.get("endpoint", "")
        if endpoint and not re.match(r"https?://[^/]", endpoint):
            raise Misconfigured(f"store.url: endpoint is {endpoint!r}; it is http://HOST:PORT or https://HOST:PORT.")
        return cls(parts.netloc, options.get("region", ""), endpoint, create == "true")

    def __str__(self) -> str:
        where = self.endpoint or self.region
        return f"the table {self.table!r}" + (f" at {where}" if where else "")

    def client_options(self, timeout_s: float, connections_max: int) -> dict[str, Any]:
        """For ``create_client``, of botocore and aiobotocore alike. Nothing is ever sent twice by the client itself."""
        return {
            "region_name": self.region or None,
            "endpoint_url": self.endpoint or None,
            "config": Config(
                connect_timeout=timeout_s,
                read_timeout=timeout_s,
                max_pool_connections=connections_max,
                retries={"total_max_attempts": 1},
                # Requests are made by this package alone; to check the shape of each again costs time on the hot path.
                parameter_validation=False,
            ),
        }


@cache
def _session() -> Any:
    # One a process: it keeps the description of the service, which takes a good part of a second to read.
    return botocore.session.get_session()


def blocking_client(address: Address, timeout_s: float) -> Any:
    """A client whose calls block, for ``timeout_s`` at most. Threads may share it. Misconfigured: there is none."""
    try:
        return _session().create_client("dynamodb", **address.client_options(timeout_s, 1))
    except (BotoCoreError, ValueError) as error:
        raise Misconfigured(f"store.url: no client for {address}: {error}") from error
