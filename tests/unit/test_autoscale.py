"""The autoscaler's policy, and its Serve config."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from ray.serve.schema import ServeDeploySchema

from deploy.autoscale import BySessions
from deploy.config import load

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Seen:
    aggregated_metrics: dict[str, dict[str, float]] | None
    running_replicas: tuple[str, ...] = ("a", "b")
    target_num_replicas: int = 2


def reports(resident: dict[str, float], busy: dict[str, float]) -> Seen:
    return Seen({"resident": resident, "busy": busy})


@pytest.mark.parametrize(
    ("resident", "busy", "hosts"),
    [
        ({"a": 60.0, "b": 40.0}, {"a": 0.0, "b": 0.0}, 1),
        ({"a": 60.0, "b": 41.0}, {"a": 0.0, "b": 0.0}, 2),
        ({"a": 60.0, "b": 40.0}, {"a": 25.0, "b": 6.0}, 4),
        ({"a": 0.0, "b": 0.0}, {"a": 0.0, "b": 0.0}, 1),
    ],
)
def test_there_are_enough_hosts_for_what_is_resident_and_for_what_is_busy(
    resident: dict[str, float], busy: dict[str, float], hosts: int
) -> None:
    assert BySessions(resident=100, busy=10)(reports(resident, busy)) == (hosts, {})


@pytest.mark.parametrize("seen", [Seen(None), Seen({}), reports({"a": 1.0}, {"a": 1.0})])
def test_no_host_is_taken_away_while_one_has_not_reported(seen: Seen) -> None:
    assert BySessions(resident=100, busy=10)(seen)[0] == 2


def test_more_hosts_are_asked_for_before_all_have_reported() -> None:
    assert BySessions(resident=100, busy=10)(reports({"a": 500.0}, {"a": 1.0}))[0] == 5


@pytest.mark.parametrize("wrong", [{"resident": 0, "busy": 1}, {"resident": 1, "busy": -1}])
def test_aims_must_be_above_0(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="above 0"):
        BySessions(**wrong)


def test_the_config_is_what_ray_accepts_and_says_the_same_as_the_other_one() -> None:
    file, plain = (
        yaml.safe_load((ROOT / "deploy" / name).read_text()) for name in ("serve-autoscale.yaml", "serve.yaml")
    )
    ServeDeploySchema.model_validate(file)
    (application,), (other,) = file["applications"], plain["applications"]
    hosts, others = application["deployments"][0], other["deployments"][0]
    policy = hosts.pop("autoscaling_config")["policy"]
    assert policy["policy_function"] == f"{BySessions.__module__}:{BySessions.__qualname__}"
    BySessions(**policy["policy_kwargs"])
    assert load(application["args"]) == load(other["args"])
    assert not other.pop("num_replicas", None) and others.pop("num_replicas")
    assert application["deployments"] == other["deployments"]
