"""``python -m loadtest.fuzz_http``: requests made from ``/openapi.json``, right ones and wrong ones, and what they met.

Schemathesis makes the requests and judges each answer by the document: status, content type, headers, shape; right
ones must be taken and wrong ones refused. Half of the requests that name a session name one that exists, so that they
reach more than a 404. No answer may be of 5xx, none may break the document, and ``OK_SHARE_MIN`` of them must be 2xx.

One request at a time: this looks for answers that the document doesn't know, not for races. The same ``--seed`` makes
the same requests from the same document, but for the names of the sessions that exist, and states of sealed ones.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import uuid
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

import hypothesis
import requests
import schemathesis
from schemathesis.checks import (
    content_type_conformance,
    negative_data_rejection,
    not_a_server_error,
    positive_data_acceptance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from schemathesis.core.failures import FailureGroup
from schemathesis.core.result import Ok

from loadtest.stack import started

OK_SHARE_MIN: Final = 0.3
BATCH: Final = 50
"""Cases per operation and round; fewer if there is to be one round only, which then reaches all of them."""
SESSIONS: Final = 3
"""Sessions that exist, made anew for each batch: some of their requests delete them."""
EXAMPLES_MAX: Final = 20
ANSWER_S: Final = 30.0
REFUSED_BY_STATE: Final = frozenset({410, 412, 422})
"""Answers to requests that are right in themselves: to a deleted session, at another turn, with a key that was used."""

_ALWAYS: Final = (
    *(not_a_server_error, status_code_conformance, content_type_conformance),
    *(response_headers_conformance, response_schema_conformance),
)
_POSITIVE, _NEGATIVE = schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE


@dataclass(slots=True)
class Found:
    """What the answers were. ``violations``: how often each rule was broken, ``examples`` by which requests."""

    seed: int
    cases: int = 0
    statuses: Counter[int] = field(default_factory=Counter)
    operations: Counter[str] = field(default_factory=Counter)
    violations: Counter[str] = field(default_factory=Counter)
    examples: list[str] = field(default_factory=list)

    def count(self, *classes: int) -> int:
        return sum(number for status, number in self.statuses.items() if status // 100 in classes)

    @property
    def ok_share(self) -> float:
        return self.count(2) / max(1, self.cases)

    @property
    def good(self) -> bool:
        return not self.violations and not self.count(5) and self.ok_share >= OK_SHARE_MIN

    def as_json(self) -> dict[str, Any]:
        return {
            "seed": self.seed,
            "cases": self.cases,
            "ok_share": round(self.ok_share, 3),
            "server_errors": self.count(5),
            "statuses": dict(sorted(self.statuses.items())),
            "operations": dict(self.operations),
            "violations": dict(self.violations),
            "examples": self.examples,
            "good": self.good,
        }


class Fuzz:
    """One run against the deployment at ``url``."""

    def __init__(self, url: str, seed: int) -> None:
        self.found = Found(seed)
        self._url = url
        self._http = requests.Session()
        self._schema = schemathesis.openapi.from_url(f"{url}/openapi.json")
        self._sessions: list[str] = []
        self._state: str | None = None
        self._round = 0
        self._batch = BATCH

    def run(self, cases: int) -> Found:
        """So many cases: two right ones to a wrong one, of ``POST /chat`` three times as many as of each other."""
        self._batch = max(2, min(BATCH, cases // 12))
        while self.found.cases < cases:
            self._round += 1
            for operation, mode, share in self._plan():
                self._sessions = [self._begin() for _ in range(SESSIONS)]
                self._state = self._sealed()
                if (left := cases - self.found.cases) > 0:
                    self._examples(operation, mode, min(left, share))
        return self.found

    def _plan(self) -> Iterator[tuple[Any, Any, int]]:
        for result in self._schema.get_all_operations():
            assert isinstance(result, Ok), f"the document has an operation that can't be read: {result.err()}"
            operation = result.ok()
            share = 3 * self._batch if operation.path == "/chat" else self._batch
            yield operation, _POSITIVE, share
            if operation.method == "post" or "{" in operation.path:
                yield operation, _NEGATIVE, share // 2

    def _examples(self, operation: Any, mode: Any, count: int) -> None:
        quiet = hypothesis.settings(
            max_examples=count,
            database=None,
            deadline=None,
            phases=[hypothesis.Phase.generate],
            suppress_health_check=list(hypothesis.HealthCheck),
        )

        @hypothesis.seed(hash((self.found.seed, self._round, mode is _POSITIVE)))
        @quiet
        @hypothesis.given(case=operation.as_strategy(generation_mode=mode))
        def each(case: schemathesis.Case[Any]) -> None:
            self._try(case, mode)

        each()

    def _try(self, case: schemathesis.Case[Any], mode: Any) -> None:
        found = self.found
        found.cases += 1
        if mode is _POSITIVE:
            self._make_meaningful(case)
        response = case.call(session=self._http, timeout=ANSWER_S)
        found.statuses[response.status_code] += 1
        found.operations[case.operation.label] += 1
        checks = list(_ALWAYS)
        if response.status_code not in REFUSED_BY_STATE:
            checks.append(positive_data_acceptance if mode is _POSITIVE else negative_data_rejection)
        try:
            case.validate_response(response, checks=checks)
        except FailureGroup as failures:
            for failure in failures.exceptions:
                found.violations[type(failure).__name__] += 1
            if len(found.examples) < EXAMPLES_MAX:
                found.examples.append(f"{failures}")

    def _make_meaningful(self, case: schemathesis.Case[Any]) -> None:
        """What a document can't say: which sessions and states there are, and that two names for one must agree."""
        if case.path_parameters and self.found.cases % 2:
            case.path_parameters["session_id"] = self._sessions[self.found.cases // 2 % len(self._sessions)]
        if self.found.cases % 4:
            # Most would be at another turn.
            case.headers.pop("if-match", None)
        if isinstance(case.body, dict) and case.body.get("state") and self._state:
            # Nobody makes one up: what follows the prefix is encrypted.
            case.body["state"] = self._state
        if isinstance(case.body, dict) and case.body.get("session_id") and "x-session-id" in case.headers:
            case.headers["x-session-id"] = case.body["session_id"]

    def _sealed(self) -> str | None:
        """The state of a sealed conversation with a turn; None where there are none."""
        answer = self._http.post(f"{self._url}/chat/sealed", json={"message": "hello"}, timeout=ANSWER_S)
        return answer.json()["state"] if answer.status_code == 200 else None

    def _begin(self) -> str:
        """A session with a turn."""
        document = {"message": "hello", "session_id": f"fuzz-{uuid.uuid4().hex}"}
        answer = self._http.post(f"{self._url}/chat", json=document, timeout=ANSWER_S)
        answer.raise_for_status()
        return document["session_id"]


async def _run(arguments: argparse.Namespace) -> Found:
    if arguments.url:
        return await asyncio.to_thread(Fuzz(arguments.url.rstrip("/"), arguments.seed).run, arguments.cases)
    async with started(arguments.port, 2, "actors.agents.echo:echo") as stack:
        return await asyncio.to_thread(Fuzz(stack.url, arguments.seed).run, arguments.cases)


def main(argv: list[str]) -> int:
    """Print what was found as JSON. Exit code 1 unless it is good."""
    parser = argparse.ArgumentParser(prog="python -m loadtest.fuzz_http", description=__doc__)
    parser.add_argument("--url", help="a deployment that runs; without it one is started, and ended")
    parser.add_argument("--port", type=int, default=8765, help="for the deployment that is started")
    parser.add_argument("--cases", type=int, default=5_000)
    parser.add_argument("--seed", type=int, default=1)
    found = asyncio.run(_run(parser.parse_args(argv)))
    print(json.dumps(found.as_json(), indent=2))
    return 0 if found.good else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
