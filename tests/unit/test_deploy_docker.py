"""The Dockerfile and the compose file: well-formed by other people's checks, and true to the settings and to the code.

No container engine runs here: nothing is built or started. What can be known without one is.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from compose_spec import PyCompose

from actors.replica import end_s
from actors.settings import Settings, of_this_host
from deploy.config import load

ROOT = Path(__file__).resolve().parents[2]
DOCKER = ROOT / "deploy" / "docker"
HADOLINT = Path(sys.executable).with_name("hadolint")
PINNED = re.compile(r"[a-z/]+:\d+\.\d+(\.\d+)?-[a-z-]*bookworm")
"""An image whose tag names a version down to the last number that it has, and a distribution."""

SECRETS = {"REDIS_PASSWORD": "a1", "POSTGRES_PASSWORD": "b2", "REHYDRA_EDGE__SECRET": "bXkgb3du"}
HOSTS = ("host-1", "host-2", "host-3")
VARIABLE = re.compile(r"\$\$|\$\{(\w+)(?::([-?])((?:[^{}]|\$\{[^{}]*\})*))?\}")


class NotSet(Exception):
    """A variable without which compose starts nothing."""


def filled(text: str, variables: Mapping[str, str]) -> str:
    """What compose makes of a text with variables (the forms that the file uses)."""

    def value(found: re.Match[str]) -> str:
        name, how, default = found.groups()
        if name is None:
            return "$"
        if given := variables.get(name):
            return given
        if how == "?":
            raise NotSet(name)
        return filled(default or "", variables)

    return VARIABLE.sub(value, text)


def composed(**variables: str) -> dict[str, Any]:
    text = filled((DOCKER / "compose.yaml").read_text(), SECRETS | variables)
    document: dict[str, Any] = yaml.safe_load(text)
    return document


def services(**variables: str) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = composed(**variables)["services"]
    return found


def seconds(text: str) -> int:
    return int(text.removesuffix("s"))


# --- compose ----------------------------------------------------------------------------------------------------------


def test_the_compose_file_is_one_by_the_compose_specification() -> None:
    spec = PyCompose.from_yaml(yaml.safe_dump(composed())).to_spec()
    assert set(spec.services or ()) == {*HOSTS, "edge-1", "edge-2", "nginx", "redis", "postgres"}
    wrong = composed()
    wrong["services"]["redis"]["volume"] = ["x:/y"]
    with pytest.raises(ValueError, match="volume"):
        PyCompose.from_yaml(yaml.safe_dump(wrong))


@pytest.mark.parametrize("name", SECRETS)
def test_without_a_secret_from_outside_nothing_starts(name: str) -> None:
    with pytest.raises(NotSet, match=name):
        composed(**{name: ""})


def test_only_nginx_has_a_port_outside_and_stores_have_no_way_out() -> None:
    document = composed()
    found = document["services"]
    assert {name: each["ports"] for name, each in found.items() if "ports" in each} == {
        "nginx": ["127.0.0.1:8000:8080"]
    }
    assert "listen 8080;" in (ROOT / "deploy/nginx/nginx.conf").read_text()
    assert document["networks"]["stores"] == {"internal": True}
    for store in ("redis", "postgres"):
        assert found[store]["networks"] == ["stores"]
    assert found["nginx"]["networks"] == ["clients"]


@pytest.mark.parametrize("name", [*HOSTS, "edge-1", "edge-2"])
def test_what_compose_and_the_image_tell_hosts_and_edges_are_settings_that_fit_together(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = services(HOST_2_WEIGHT="3")[name]
    for variable, value in {**image_environment(), **service["environment"]}.items():
        monkeypatch.setenv(variable, str(value))
    settings = load()
    assert settings.store.url == "redis://:a1@redis:6379/0"
    assert settings.edge.secret.get_secret_value() == SECRETS["REHYDRA_EDGE__SECRET"]
    weight = of_this_host(settings, {key: str(value) for key, value in service["environment"].items()}).ring.host_weight
    assert weight == (3 if name == "host-2" else 1)
    if name in HOSTS:
        assert seconds(service["stop_grace_period"]) >= end_s(settings)
    else:
        assert service["command"] == ["python", "-m", "deploy.edge"]
        assert f"server {name}:{settings.edge.port} " in (ROOT / "deploy/nginx/nginx.conf").read_text()


def test_another_store_is_named_by_its_url_alone() -> None:
    url = "postgresql://rehydra:b2@postgres:5432/rehydra"
    found = services(REHYDRA_STORE__URL=url)
    assert {found[name]["environment"]["REHYDRA_STORE__URL"] for name in (*HOSTS, "edge-1", "edge-2")} == {url}
    assert found["postgres"]["profiles"] == ["postgres"]


def test_every_service_is_confined_and_says_how_it_is() -> None:
    for name, service in services().items():
        assert service["cap_drop"] == ["ALL"] and service["read_only"] is True, name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert service["image"] == "rehydra:local" or PINNED.fullmatch(service["image"]), name
        assert "healthcheck" in service or name in HOSTS, f"{name} has neither its own nor the image's"


# --- the image --------------------------------------------------------------------------------------------------------


def dockerfile() -> list[list[str]]:
    """Its instructions: word and the rest."""
    text = (DOCKER / "Dockerfile").read_text()
    lines = "\n".join(line for line in text.splitlines() if not line.startswith("#")).replace("\\\n", " ").splitlines()
    return [line.split(maxsplit=1) for line in lines if line.strip()]


def image_environment() -> dict[str, str]:
    pairs = [pair.split("=", 1) for word, rest in dockerfile() if word == "ENV" for pair in rest.split()]
    return {name: value for name, value in pairs if name.startswith("REHYDRA_")}


def hadolint(text: str) -> list[str]:
    done = subprocess.run(
        [str(HADOLINT), "--failure-threshold", "style", "--disable-ignore-pragma", "-"],
        input=text, capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip
    assert done.returncode in (0, 1), done.stderr
    return done.stdout.splitlines()


def test_hadolint_has_nothing_to_say_of_the_dockerfile() -> None:
    text = (DOCKER / "Dockerfile").read_text()
    assert hadolint(text) == []
    assert any("DL3042" in line for line in hadolint(text.replace(" --no-cache-dir", "")))


def test_the_image_is_pinned_runs_as_nobody_in_particular_and_holds_no_secret() -> None:
    instructions = dockerfile()
    base = dict(rest.split("=", 1) for word, rest in instructions if word == "ARG" and "=" in rest)["PYTHON"]
    assert PINNED.fullmatch(base)
    assert [rest for word, rest in instructions if word == "USER"] == ["10001:10001"]
    named = " ".join(rest for word, rest in instructions if word in ("ARG", "ENV", "COPY", "ADD"))
    assert not re.search(r"secret|password|token|\.env", named, re.IGNORECASE)
    assert instructions[-1] == ["CMD", '["python", "-m", "deploy.host"]']


def test_what_the_image_is_made_of_is_there_and_is_let_through() -> None:
    allowed = (DOCKER / "Dockerfile.dockerignore").read_text().splitlines()
    copied = [rest.split()[:-1] for word, rest in dockerfile() if word == "COPY"]
    for name in (name for names in copied for name in names):
        assert (ROOT / name).exists(), name
        assert f"!{name.split('/')[0]}" in allowed, name


def test_the_health_check_asks_where_the_host_listens() -> None:
    environment = image_environment()
    (check,) = (rest for word, rest in dockerfile() if word == "HEALTHCHECK")
    assert environment["REHYDRA_HTTP__PORT_MIN"] == environment["REHYDRA_HTTP__PORT_MAX"]
    assert f"127.0.0.1:{environment['REHYDRA_HTTP__PORT_MIN']}/healthz" in check
    assert environment["REHYDRA_HTTP__BIND"] == "0.0.0.0"


# --- nginx ------------------------------------------------------------------------------------------------------------


def test_nginxs_limits_are_those_of_the_edge_by_default() -> None:
    text = (ROOT / "deploy/nginx/nginx.conf").read_text()
    settings = Settings()

    def said(name: str) -> str:
        (value,) = re.findall(rf"^\s*{name} (.*);", text, re.MULTILINE)
        return str(value)

    assert set(re.findall(r"max_conns=(\d+)", text)) == {str(settings.edge.connections_max)}
    assert settings.session.body_bytes_max < int(said("client_max_body_size").removesuffix("k")) * 1024
    assert said("client_body_buffer_size") == said("client_max_body_size"), "what isn't kept can't be repeated"
    assert settings.http.head_bytes_max < int(said("large_client_header_buffers").split()[1].removesuffix("k")) * 1024
    edge_waits_s = settings.session.request_wait_s + settings.session.commit_patience_s + 30
    assert edge_waits_s < seconds(said("proxy_read_timeout"))
