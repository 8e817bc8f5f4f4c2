"""What can be told to ``deploy/up``, what it makes of it, and the application that comes out: without starting any."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import traceback
from pathlib import Path

import pytest
import yaml

from actors.errors import Misconfigured
from actors.sealed_keys import sealer_of
from actors.settings import Settings
from deploy import processes
from deploy.app import require_safe_on
from deploy.claim import PortClaim
from deploy.config import load
from deploy.environment import environment, shown_url
from deploy.folder import Folder, NotPossible
from deploy.options import Options, parse

ROOT = Path(__file__).resolve().parents[2]


# --- options --------------------------------------------------------------------------------------------------------


def test_without_options_it_is_three_hosts_on_port_8000_that_lose_nothing() -> None:
    assert parse([]) == Options(8000, "127.0.0.1", 3, "", "", "always", False, 0, 0, "redis")


@pytest.mark.parametrize("wrong", [["--port", "0"], ["--port", "http"], ["--replicas", "0"], ["--fsync", "no"], ["up"]])
def test_an_option_that_makes_no_sense_is_refused(wrong: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as refused:
        parse(wrong)
    assert refused.value.code == 2
    assert wrong[-1] in capsys.readouterr().err


def test_a_relative_data_dir_means_the_same_folder_from_everywhere(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    assert parse(["--data-dir", "talks"]).data_dir == str(tmp_path / "talks")


# --- settings -------------------------------------------------------------------------------------------------------


def test_a_wrong_setting_is_named_in_one_line() -> None:
    with pytest.raises(Misconfigured) as refused:
        load({"ring": {"vnodes": "many"}, "session": {"idle_s": -1}})
    assert "\n" not in refused.value.detail
    assert refused.value.detail.startswith("session.idle_s") or refused.value.detail.startswith("ring.vnodes")
    assert refused.value.detail.endswith("(and 1 more)")


def test_settings_that_contradict_each_other_are_one_line_too() -> None:
    with pytest.raises(Misconfigured) as refused:
        load({"session": {"request_wait_s": 1}})
    assert refused.value.detail == "session.request_wait_s must be at least agent.deadline_s."


@pytest.mark.parametrize("where", [{"http": {"bind": "10.0.0.2"}}, {"http": {"bind": ""}}, {"edge": {"bind": "::"}}])
def test_the_public_secret_is_refused_where_others_reach_a_host(where: dict[str, dict[str, str]]) -> None:
    with pytest.raises(Misconfigured) as refused:
        load(where)
    assert refused.value.detail.startswith("edge.secret is the public default")
    assert "\n" not in refused.value.detail
    load({**where, "edge": {**where.get("edge", {}), "secret": "bXkgb3du"}})


@pytest.mark.parametrize("address", ["127.0.0.1", "127.8.9.10", "::1", "localhost"])
def test_on_loopback_the_public_secret_will_do(address: str) -> None:
    assert load({"http": {"bind": address}, "edge": {"bind": address}}).edge.bind == address


def test_on_several_nodes_the_secret_must_be_ones_own_and_hosts_must_be_reachable() -> None:
    own = {"edge": {"secret": "bXkgb3du"}}
    require_safe_on(1, load())
    with pytest.raises(Misconfigured, match=r"edge\.secret .* 2 nodes"):
        require_safe_on(2, load())
    with pytest.raises(Misconfigured, match=r"http\.bind .* 2 nodes"):
        require_safe_on(2, load(own))
    require_safe_on(2, load({**own, "http": {"bind": ""}}))


def test_a_secret_that_is_not_base64_is_found_before_anything_starts() -> None:
    with pytest.raises(Misconfigured, match=r"edge\.secret"):
        load({"edge": {"secret": "not base 64"}})


def test_what_was_put_in_is_not_shown_with_what_is_wrong() -> None:
    args = {"store": {"url": "redis://:hush@h:1/0"}, "ring": {"vnodes": "many"}}
    with pytest.raises(Misconfigured) as refused:
        load(args)
    assert "hush" not in "".join(traceback.format_exception(refused.value))


# --- folder ---------------------------------------------------------------------------------------------------------


def test_one_stack_at_a_time_holds_a_folder(tmp_path: Path) -> None:
    first, second = Folder(1, str(tmp_path)), Folder(1, str(tmp_path))
    first.open()
    assert first.lock()
    assert not second.lock()
    first.unlock()
    assert second.lock()
    second.unlock()


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(NotPossible, match="--data-dir"):
        Folder(1, str(tmp_path / "file" / "below")).open()


def test_a_secret_is_made_once_and_is_its_owners(tmp_path: Path) -> None:
    folder = Folder(1, str(tmp_path))
    secret = folder.secret("secret")
    assert Folder(1, str(tmp_path)).secret("secret") == secret
    assert folder.secret("another") != secret
    assert stat.S_IMODE((tmp_path / "secret").stat().st_mode) == 0o600


def test_a_secret_that_others_could_read_is_taken_from_them(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("bXkgb3du")
    (tmp_path / "secret").chmod(0o644)
    assert Folder(1, str(tmp_path)).secret("secret") == "bXkgb3du"
    assert stat.S_IMODE((tmp_path / "secret").stat().st_mode) == 0o600


def test_a_failed_first_start_leaves_no_folder_but_what_the_person_is_told_of(tmp_path: Path) -> None:
    folder = Folder(1, str(tmp_path / "a" / "b"))
    for told, left in (("", set()), (f"see {folder.path}/cluster.log.", {"cluster.log"})):
        folder.open()
        assert folder.lock()
        folder.secret("secret")
        (folder.path / "redis").mkdir()
        (folder.path / "cluster.log").write_text("Traceback")
        folder.undo(keep=told)
        folder.unlock()
        assert {path.name for path in tmp_path.rglob("*") if path.is_file()} == left


def test_a_start_that_fails_on_a_folder_that_was_there_takes_nothing_away(tmp_path: Path) -> None:
    (tmp_path / "redis").mkdir()
    folder = Folder(1, str(tmp_path))
    folder.open()
    assert folder.lock()
    folder.undo(keep="")
    folder.unlock()
    assert (tmp_path / "redis").exists()


def test_a_lock_that_was_deleted_with_its_folder_locks_nothing(tmp_path: Path) -> None:
    first, second = Folder(1, str(tmp_path / "new")), Folder(1, str(tmp_path / "new"))
    first.open()
    assert first.lock()
    first.undo(keep="")
    second.open()
    assert second.lock()
    assert not Folder(1, str(tmp_path / "new")).lock()
    first.unlock()
    second.unlock()


def test_a_port_is_claimed_by_one_and_the_others_learn_by_whom() -> None:
    port = 70_000 + os.getpid()  # No real one: a name is all that is claimed.
    first, second = PortClaim(port), PortClaim(port)
    assert first.take()
    assert not second.take()
    assert second.holder() == os.getpid()
    first.drop()
    assert second.holder() == 0
    assert second.take()
    second.drop()


def test_the_state_is_what_was_told_last_and_goes_with_the_stack(tmp_path: Path) -> None:
    folder = Folder(1, str(tmp_path))
    assert folder.state() == {}
    folder.tell(phase="starting", pid=1)
    folder.tell(phase="ready", pid=1)
    assert folder.state() == {"phase": "ready", "pid": 1}
    folder.forget()
    assert folder.state() == {}


def test_a_state_that_was_torn_is_no_state(tmp_path: Path) -> None:
    (tmp_path / "state.json").write_text('{"pid": ')
    assert Folder(1, str(tmp_path)).state() == {}


def test_folders_with_sockets_have_short_names_and_never_the_same(tmp_path: Path) -> None:
    deep = tmp_path / ("long" * 20) / "deeper"
    ones = {Folder(1, str(deep)).short, Folder(1, str(tmp_path)).short, Folder(1).short, Folder(2).short}
    assert len(ones) == 4
    assert max(len(str(one)) for one in ones) < 40


# --- environment ----------------------------------------------------------------------------------------------------


def environment_of(tmp_path: Path, *arguments: str) -> dict[str, str]:
    return environment(parse(list(arguments)), Folder(8000, str(tmp_path)))


def test_a_stack_keeps_away_from_the_cluster_that_the_user_works_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    env = environment_of(tmp_path)
    assert "RAY_ADDRESS" not in env
    assert Path(env["RAY_AUTH_TOKEN_PATH"]).read_text()


def test_a_stack_has_a_key_for_sealed_conversations_that_stays_unless_the_user_has_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = environment_of(tmp_path)["REHYDRA_SEALED__KEYS"]
    assert sealer_of(Settings.load({"sealed": {"keys": key}})) is not None
    assert environment_of(tmp_path)["REHYDRA_SEALED__KEYS"] == key
    assert stat.S_IMODE((tmp_path / "sealed-key").stat().st_mode) == 0o600
    monkeypatch.setenv("REHYDRA_SEALED__KEYS_FILE", "/run/secrets/keys")
    assert "REHYDRA_SEALED__KEYS" not in environment_of(tmp_path)
    monkeypatch.delenv("REHYDRA_SEALED__KEYS_FILE")
    monkeypatch.setenv("REHYDRA_SEALED__KEYS", "")
    assert environment_of(tmp_path)["REHYDRA_SEALED__KEYS"] == "", "none wanted"


def test_what_the_user_has_set_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REHYDRA_EDGE__SECRET", "bXkgb3du")
    monkeypatch.setenv("REHYDRA_HTTP__BIND", "10.0.0.2")
    monkeypatch.setenv("PYTHONPATH", "/my/agents")
    env = environment_of(tmp_path, "--agent", "mine:agent")
    assert (env["REHYDRA_EDGE__SECRET"], env["REHYDRA_HTTP__BIND"]) == ("bXkgb3du", "10.0.0.2")
    assert env["REHYDRA_AGENT__PATH"] == "mine:agent"
    paths = env["PYTHONPATH"].split(os.pathsep)
    assert (paths[0], paths[-1]) == (str(ROOT), "/my/agents")


def test_two_stacks_on_one_redis_have_keys_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDIS_URL", "redis://:secret@127.0.0.1:6379/0")
    one, two = environment_of(tmp_path, "--port", "8001"), environment_of(tmp_path, "--port", "8002")
    assert one["REHYDRA_STORE__URL"] == "redis://:secret@127.0.0.1:6379/0"
    assert one["REHYDRA_STORE__PREFIX"] != two["REHYDRA_STORE__PREFIX"]


def test_a_url_is_shown_without_its_password() -> None:
    assert shown_url("redis://user:secret@host:6379/0?ssl=1") == "redis://host:6379/0"


def test_every_stack_environment_makes_valid_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in environment_of(tmp_path).items():
        if name.startswith("REHYDRA_"):
            monkeypatch.setenv(name, value)
    assert load().edge.port == 8000


# --- shell ----------------------------------------------------------------------------------------------------------


def shell(script: str, root: Path, **more: str) -> subprocess.CompletedProcess[str]:
    text = f"set -euo pipefail; root={root}; . {ROOT}/deploy/venv.sh; {script}"
    env = {**os.environ, **more}
    return subprocess.run(
        ["bash", "-c", text, "deploy/up"], capture_output=True, text=True, env=env, timeout=30, check=False
    )


def test_too_old_a_python_is_one_clear_line(tmp_path: Path) -> None:
    tools = tmp_path / "bin"
    tools.mkdir()
    old = tools / "python3"
    old.write_text('#!/bin/sh\ncase "$2" in *print*) echo " (python3 is 3.9)";; *) exit 1;; esac\n')
    old.chmod(0o755)
    for name in ("bash", "sh", "cat", "cksum", "mkdir", "uname", "flock"):
        (tools / name).symlink_to(f"/usr/bin/{name}")
    (tmp_path / "some.lock").write_text("")
    done = shell("use_venv some.lock", tmp_path, PATH=str(tools))
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "Python 3.11" in done.stderr
    assert "3.9" in done.stderr


def test_an_environment_of_too_old_a_python_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "some.lock").write_text("")
    old = tmp_path / ".venv" / "bin" / "python"
    old.parent.mkdir(parents=True)
    old.write_text("#!/bin/sh\nexit 1\n")
    old.chmod(0o755)
    done = shell("use_venv some.lock", tmp_path)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "remove that folder" in done.stderr


def test_no_write_permission_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "some.lock").write_text("")
    (tmp_path / ".venv").write_text("a file, so that not even root may write below it")
    done = shell("use_venv some.lock", tmp_path)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert ".venv can't be written" in done.stderr


def test_an_installation_that_is_stopped_ends_at_once_with_all_it_started(tmp_path: Path) -> None:
    (tmp_path / "some.lock").write_text("")
    pip = tmp_path / ".venv" / "bin" / "python"
    pip.parent.mkdir(parents=True)
    begun = tmp_path / "begun"
    os.mkfifo(begun)
    pip.write_text(f'#!/bin/sh\ncase "$*" in *install*) sleep 60 & echo $! >{begun}; wait;; esac\n')
    pip.chmod(0o755)
    text = f"set -euo pipefail; root={tmp_path}; . {ROOT}/deploy/venv.sh; use_venv some.lock"
    # Whoever runs the tests in the background has them ignore SIGINT, and bash can't trap what was ignored before it.
    command = ["env", "--default-signal=INT", "bash", "-c", text, "deploy/up"]
    done = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    child = processes.find(int(begun.read_text()))
    assert child is not None
    done.send_signal(signal.SIGINT)
    assert b"deploy/up: Stopped" in done.communicate(timeout=10)[1]
    assert done.returncode == 1
    assert processes.wait_gone({child}, 5.0) == set()


def test_nothing_is_installed_while_the_lock_is_the_same(tmp_path: Path) -> None:
    (tmp_path / "some.lock").write_text("")
    pip = tmp_path / ".venv" / "bin" / "python"
    pip.parent.mkdir(parents=True)
    pip.write_text(f'#!/bin/sh\necho "$@" >>{tmp_path}/calls\n')
    pip.chmod(0o755)
    for _ in range(2):
        assert shell("use_venv some.lock", tmp_path).returncode == 0
    calls = (tmp_path / "calls").read_text()
    assert calls.count("pip install") == 1
    (tmp_path / "some.lock").write_text("# another")
    assert shell("use_venv some.lock", tmp_path).returncode == 0
    assert (tmp_path / "calls").read_text().count("pip install") == 2


def test_a_failed_installation_says_so_and_is_tried_again(tmp_path: Path) -> None:
    (tmp_path / "some.lock").write_text("")
    pip = tmp_path / ".venv" / "bin" / "python"
    pip.parent.mkdir(parents=True)
    pip.write_text('#!/bin/sh\ncase "$*" in *install*) echo "no network"; exit 1;; esac\n')
    pip.chmod(0o755)
    for _ in range(2):
        done = shell("use_venv some.lock", tmp_path)
        assert done.returncode == 2
        assert "no network" in done.stderr
        assert "install.log" in done.stderr


# --- the Serve config -----------------------------------------------------------------------------------------------


def test_the_serve_config_names_the_builder_and_settings_that_exist() -> None:
    config = yaml.safe_load((ROOT / "deploy" / "serve.yaml").read_text())
    (application,) = config["applications"]
    assert application["import_path"] == "deploy.app:build"
    settings = load(application["args"])
    assert settings.edge.port != config["http_options"]["port"]
