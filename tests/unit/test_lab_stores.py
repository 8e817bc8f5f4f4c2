"""What an experiment knows of a store from what ``deploy/up`` says of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from loadtest.lab.stores import POSTGRES_PASSWORD, Store


@pytest.mark.parametrize(
    ("url", "servers"),
    [
        ("redis://127.0.0.1:7001/0", {"redis": "127.0.0.1:7001"}),
        ("rediss://127.0.0.1:7001/0", {"redis": "127.0.0.1:7001"}),
        ("postgresql://127.0.0.1:7002/postgres", {"postgres": "127.0.0.1:7002"}),
        ("postgresql://user:p%40ss@127.0.0.1:7002/postgres", {"postgres": "127.0.0.1:7002"}),
        (
            "hybrid+redis://127.0.0.1:7001/0+postgresql://127.0.0.1:7002/postgres",
            {"redis": "127.0.0.1:7001", "postgres": "127.0.0.1:7002"},
        ),
        (
            "hybrid+redis://127.0.0.1:7001+postgresql://127.0.0.1:7002",
            {"redis": "127.0.0.1:7001", "postgres": "127.0.0.1:7002"},
        ),
    ],
)
def test_its_servers_are_those_that_its_url_names(url: str, servers: dict[str, str], tmp_path: Path) -> None:
    assert Store("any", url, tmp_path).servers == servers


def test_the_password_is_the_deployments_and_fits_into_a_url(tmp_path: Path) -> None:
    store = Store("postgres", "postgresql://127.0.0.1:7002/postgres", tmp_path)
    with pytest.raises(FileNotFoundError):
        store.postgres_url()
    (tmp_path / POSTGRES_PASSWORD).write_text("a/b+c=\n")
    own = "postgresql://rehydra@127.0.0.1:7003/postgres"
    assert Store("postgres", own, tmp_path).postgres_url() == own
    assert store.postgres_url() == "postgresql://rehydra:a%2Fb%2Bc%3D@127.0.0.1:7002/postgres"


def test_edges_are_told_a_store_as_hosts_are(tmp_path: Path) -> None:
    (tmp_path / POSTGRES_PASSWORD).write_text("secret")
    postgres = Store("postgres", "postgresql://127.0.0.1:7002/postgres", tmp_path)
    assert postgres.private_url() == postgres.postgres_url()
    assert Store("redis", "redis://127.0.0.1:7001/0", tmp_path).private_url() == "redis://127.0.0.1:7001/0"
    both = "hybrid+redis://127.0.0.1:7001/0+postgresql://{}127.0.0.1:7002/postgres"
    assert Store("hybrid", both.format(""), tmp_path).private_url() == both.format("rehydra:secret@")
