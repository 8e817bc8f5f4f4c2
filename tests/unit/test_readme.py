"""The README tells the truth where a program can check it."""

from __future__ import annotations

import re
from pathlib import Path

from actors.settings import Settings
from deploy.settings import listing, markdown

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()


def test_the_settings_table_is_what_the_settings_print() -> None:
    between = README.split("<!-- settings: python -m deploy.settings --markdown -->")[1]
    assert between.split("<!-- end of settings -->")[0].strip() == markdown(Settings.load()).strip()


def test_the_readme_goes_from_the_first_start_to_the_limits() -> None:
    headings = re.findall(r"^##+ (.*)$", README, re.MULTILINE)
    wanted = ("60 seconds", "Stream", "Kill", "Your own agent", "On a cluster", "Settings", "Known limits")
    found = [heading for heading in headings if heading.startswith(wanted)]
    assert [heading.startswith(start) for heading, start in zip(found, wanted, strict=True)] == [True] * len(wanted)
    started = README.split("## 60 seconds")[1].split("### Stream")[0]
    assert started.index("\ndeploy/up\n") < started.index("\ncurl -s localhost:8000/chat"), "run, then chat"


def test_every_invariant_stands_with_tests_that_exist() -> None:
    rows = re.findall(r"^\| \*\*(I\d+)\*\* .*?\|(.*)\|$", README, re.MULTILINE)
    assert [name for name, _ in rows] == [f"I{number}" for number in range(1, 11)]
    for invariant, cell in rows:
        named = re.findall(r"`(test_\w+)`", cell)
        assert named, f"{invariant} names no test"
        for test in named:
            assert _exists(test), f"{invariant} names {test}, which doesn't exist"


def test_every_path_that_the_readme_names_exists() -> None:
    for path in re.findall(r"`((?:actors|router|deploy|tests|loadtest)/[\w./-]+)`", README):
        assert (ROOT / path).exists(), path


def test_every_setting_is_used_by_the_code() -> None:
    files = [path for room in ("actors", "router", "deploy") for path in (ROOT / room).rglob("*.py")]
    code = "\n".join(path.read_text() for path in files if path.name != "settings.py")
    settings = Settings.load()
    unused = [
        f"{group}.{name}"
        for group in type(settings).model_fields
        for name in type(getattr(settings, group)).model_fields
        if not re.search(rf"\.{name}\b", code)
    ]
    assert unused == []


def _exists(test: str) -> bool:
    return any(f"def {test}(" in path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))


def test_the_listing_of_settings_shows_no_password() -> None:
    told = listing(Settings.load({"store": {"url": "redis://ann:hush@h:1/0"}, "edge": {"secret": "aHVzaA=="}}))
    assert "redis://ann:********@h:1/0" in told
    assert "hush" not in told and "aHVzaA" not in told
