"""Settings: where they come from, how they are shown, and what doesn't fit together."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from actors.errors import Misconfigured
from actors.replica import HostLife
from actors.settings import Settings, of_this_host
from deploy.config import load
from deploy.settings import listing, main
from router.routing import HostView

ROOT = Path(__file__).resolve().parents[2]


def line_of(name: str, shown: str) -> str:
    return next(line for line in shown.splitlines() if line.startswith(f"{name} = "))


@pytest.mark.parametrize(
    ("groups", "told"),
    [
        ({"ring": {"beat_interval_s": 1.0, "beat_ttl_s": 2.0}}, "one lost beat is no death"),
        ({"session": {"ttl_s": 60.0}}, "sessions expire while they are in memory"),
        ({"session": {"message_bytes_max": 500_000}}, "must not exceed session.body_bytes_max"),
        ({"edge": {"buffer_bytes": 65_536}}, "edge.buffer_bytes must exceed"),
        ({"session": {"request_wait_s": 10.0}}, "at least agent.deadline_s"),
        ({"http": {"port_min": 5000}}, "must both be 0, or a range"),
        ({"http": {"bind": "0.0.0.0"}}, "edge.secret is the public default"),
        ({"session": {"idle": 5}}, "session.idle: There is no such setting."),
        ({"session": {"idle_s": -1}}, "session.idle_s: Input should be greater than 0"),
        ({"agent": {"deadline_s": float("inf")}}, "agent.deadline_s: Input should be a finite number"),
        ({"http": {"body_s": float("nan")}}, "http.body_s: Input should be a finite number"),
        ({"session": {"ttl_s": 1e300}}, "session.ttl_s: Input should be less than or equal to"),
        ({"session": {"tombstone_s": 1e300}}, "session.tombstone_s: Input should be less than or equal to"),
        ({"edge": {"secret": "no base64!"}}, "edge.secret"),
        ({"sealed": {"keys": "c2hvcnQ="}}, "Key 1 of sealed.keys isn't 32 bytes in base64"),
        ({"sealed": {"keys": "c2hvcnQ=", "keys_file": "/k"}}, "both set"),
        ({"sealed": {"keys_file": "/k", "state_bytes_max": 400_000}}, "must be below session.body_bytes_max"),
        ({"sealed": {"schema_version_min": 2}}, "must not exceed sealed.schema_version"),
        ({"sealed": {"guard": "store", "ttl_s": 0}}, "sealed.guard needs a sealed.ttl_s"),
        ({"ring": {"host_weight": 65}}, "ring.host_weight: Input should be less than or equal to 64"),
    ],
)
def test_what_does_not_fit_together_is_one_line_that_names_it(groups: dict[str, Any], told: str) -> None:
    with pytest.raises(Misconfigured) as refused:
        load(groups)
    assert told in refused.value.detail
    assert "\n" not in refused.value.detail


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("REHYDRA_SESSION_IDLE_S", "names no setting; REHYDRA_SESSION__IDLE_S does."),
        ("REHYDRA_SESSION__IDLES", "names no setting; REHYDRA_SESSION__IDLE_S does."),
        ("REHYDRA_HOSTS_WEIGHT", "names no setting; REHYDRA_HOST_WEIGHT does."),
        ("REHYDRA_QQQQ", "REHYDRA_QQQQ in the environment names no setting"),
    ],
)
def test_a_variable_that_names_no_setting_is_refused(name: str, told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "5")
    with pytest.raises(Misconfigured) as refused:
        load()
    assert told in refused.value.detail


def test_args_win_over_the_environment_which_wins_over_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REHYDRA_SESSION__IDLE_S", "60")
    monkeypatch.setenv("REHYDRA_SESSION__MAILBOX_MAX", "7")
    settings = load({"session": {"idle_s": 30}})
    assert (settings.session.idle_s, settings.session.mailbox_max, settings.session.hops_max) == (30.0, 7, 6)


def test_each_setting_is_shown_with_its_unit_its_source_and_its_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REHYDRA_SESSION__MAILBOX_MAX", "7")
    monkeypatch.setenv("REHYDRA_RING", '{"slots_max": 99}')
    args = {"session": {"idle_s": 30}}
    shown = listing(load(args), args)
    assert line_of("session.idle_s", shown) == "session.idle_s = 30 s  (args; default 300 s)"
    assert line_of("session.mailbox_max", shown).endswith("= 7  (REHYDRA_SESSION__MAILBOX_MAX; default 128)")
    assert line_of("session.body_bytes_max", shown) == "session.body_bytes_max = 400000 bytes  (default)"
    assert "(environment; " in line_of("ring.slots_max", shown)
    settings = Settings.load()
    for group in type(settings).model_fields:
        for name in type(getattr(settings, group)).model_fields:
            assert line_of(f"{group}.{name}", shown)


def test_a_serve_configs_args_count_when_it_is_named(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    config = tmp_path / "serve.yaml"
    config.write_text("applications: [{name: r, import_path: x, args: {hosts: 2, session: {idle_s: 5}}}]")
    assert main(["--config", str(config)]) == 0
    assert "session.idle_s = 5 s  (args; default 300 s)" in capsys.readouterr().out
    assert main(["--config", str(ROOT / "deploy" / "serve.yaml")]) == 0


@pytest.mark.parametrize("text", ["just: words", "applications: []", "a: [", ""])
def test_what_is_no_serve_config_is_one_line_and_exit_code_2(
    text: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    config = tmp_path / "no.yaml"
    config.write_text(text)
    assert main(["--config", str(config)]) == 2
    told = capsys.readouterr().err
    assert told.startswith("deploy.settings: ") and told.count("\n") == 1


def test_a_host_has_the_weight_that_its_own_environment_names_and_else_that_of_the_settings(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("REHYDRA_RING__HOST_WEIGHT", "2")
    settings = load()
    assert HostLife(settings, HostView).settings.ring.host_weight == 2
    monkeypatch.setenv("REHYDRA_HOST_WEIGHT", "3")
    # Settings are read where the application is built, and travel: that machine's weight isn't the others'.
    assert load() == settings
    assert HostLife(settings, HostView).settings.ring.host_weight == 3
    assert "ring.host_weight = 3" in listing(of_this_host(settings, os.environ))
    assert "(REHYDRA_HOST_WEIGHT; default 1)" in line_of("ring.host_weight", listing(settings))


@pytest.mark.parametrize("text", ["", "0", "65", "-1", "1.5", "three", "²"])
def test_a_weight_that_is_none_is_one_line_that_names_it(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("rehydra_host_weight", text)
    told = r"^REHYDRA_HOST_WEIGHT must be a whole number from 1 to 64"
    with pytest.raises(Misconfigured, match=told):
        load()
    with pytest.raises(Misconfigured, match=told):
        of_this_host(Settings(), os.environ)
