"""Cases are found by name, topic and device; goals give verdicts."""

from __future__ import annotations

import pytest
from contests import Calls, contest, entry

from benchmarks.registry import DEVICES, TOPICS, Entry, Goal, Registry, Setting, load


@pytest.mark.parametrize(
    ("ratio", "verdict"),
    [(0.5, "aim"), (0.8, "aim"), (0.81, "resolved"), (1.2, "resolved"), (1.201, "missed")],
)
def test_verdicts(ratio: float, verdict: str) -> None:
    assert Goal("time", resolved_at=1.2, aim=0.8).verdict(ratio) == verdict


def test_quick_settings_choose_the_small_size() -> None:
    assert Setting("cpu").size((1025, 2049), (65, 129)) == (1025, 2049)
    assert Setting("cpu", quick=True).size((1025, 2049), (65, 129)) == (65, 129)


class TestSelection:
    def test_by_name_topic_and_device(self) -> None:
        registry = load()
        assert list(registry.select("cpu", ["span"]).sweeps) == ["span"]
        assert set(registry.select("cpu", ["memory"]).sweeps) == {"input_side", "span"}
        assert {each.topic for each in registry.select("cpu", ["attention"]).entries()} == {
            "attention"
        }
        for device in DEVICES:
            chosen = registry.select(device, []).entries()
            assert chosen == [each for each in registry.entries() if device in each.goals]

    def test_unknown_names_are_refused_with_those_that_exist(self) -> None:
        with pytest.raises(ValueError, match=r"--only speed is no benchmark .* there are .*span"):
            load().select("cpu", ["span", "speed"])

    def test_a_case_of_another_device_is_unknown(self) -> None:
        registry = Registry()
        registry.add(registry.cases, Entry("a", "A", "topic", lambda _: contest(Calls()), {}))
        with pytest.raises(ValueError, match="for cuda"):
            registry.select("cuda", ["a"])


def test_two_benchmarks_of_one_name_are_refused() -> None:
    registry = Registry()
    one = entry(lambda setting: contest(Calls()))
    registry.add(registry.cases, one)
    with pytest.raises(ValueError, match="two benchmarks are called 'name'"):
        registry.add(registry.sweeps, one)


def test_unknown_devices_are_refused() -> None:
    registry = Registry()
    wrong = Entry("a", "A", "topic", lambda setting: contest(Calls()), {"tpu": ()})
    with pytest.raises(ValueError, match="tpu"):
        registry.add(registry.cases, wrong)


def test_every_entry_belongs_to_a_topic_and_has_sound_goals() -> None:
    entries = load().entries()
    assert {each.topic for each in entries} <= set(TOPICS)
    assert len({each.name for each in entries}) == len(entries)
    for each in entries:
        for goals in each.goals.values():
            for goal in goals:
                assert goal.quantity in ("time", "memory")
                assert 0 < goal.aim <= goal.resolved_at


def test_the_goals_are_those_of_the_issue() -> None:
    """The thresholds that a case is judged by, so that none is moved unseen."""
    goals = {
        (each.name, device, goal.quantity): (goal.resolved_at, goal.aim)
        for each in load().entries()
        for device, of_device in each.goals.items()
        for goal in of_device
    }
    assert goals["classifier_inference", "cpu", "time"] == (1.5, 1.0)
    assert goals["classifier_training", "cpu", "time"] == (2.0, 1.0)
    assert goals["classifier_training", "cpu", "memory"] == (1.2, 0.8)
    assert goals["panoptic_inference", "cpu", "time"] == (1.2, 0.7)
    assert goals["postprocessing", "cpu", "time"] == (1 / 40, 1 / 100)
    assert goals["axial_layer_training", "cpu", "memory"] == (1 / 6, 1 / 10)
    assert goals["axial_layer_training", "cuda", "time"] == (1 / 4, 1 / 10)
    assert goals["axial_layer_compiled", "cuda", "time"] == (2 / 3, 1 / 3)
    growth = load().sweeps["input_side"].growth
    assert growth is not None
    assert (growth.start, growth.goal.resolved_at) == (513, 1.15)
