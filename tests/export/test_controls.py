"""What becomes of an action on its way to the actuators is found by asking, and said only where it is a rule."""

import numpy as np
import pytest

from penstock.export.controls import Controls, found_by_asking

LOW, HIGH = np.array([-1.0, -2.0]), np.array([1.0, 2.0])
POSE, SCALE = np.array([0.9, -1.8]), np.array([0.5, 0.25])


def test_a_standing_pose_and_a_scale_are_found():
    found = found_by_asking(lambda which, action: (POSE + SCALE * action).astype(np.float32), LOW, HIGH)
    assert found is not None
    assert found.offset == pytest.approx(POSE) and found.scale == pytest.approx(SCALE)


def test_actions_that_are_controls_have_no_offset():
    assert found_by_asking(lambda which, action: action, LOW, HIGH) == Controls((0.0, 0.0), (1.0, 1.0))


RULES = {
    "follows from the state, too": lambda which, action: POSE + SCALE * action + 0.01 * which,
    "is clipped": lambda which, action: np.clip(POSE + SCALE * action, -1.8, 1.0),
    "bends": lambda which, action: POSE + action**3,
    "mixes entries": lambda which, action: POSE + SCALE * action + 0.1 * action[::-1] * action,
    "is of another size": lambda which, action: np.append(action, 0.0),
    "is not told": lambda which, action: None,
    "is no number": lambda which, action: action * np.nan,
}


@pytest.mark.parametrize("name", RULES)
def test_what_is_no_rule_of_the_action_alone_is_not_said(name):
    assert found_by_asking(RULES[name], LOW, HIGH) is None


def test_actions_without_bounds_are_not_asked_for():
    assert found_by_asking(lambda which, action: action, np.array([-np.inf]), np.array([np.inf])) is None


def test_an_environment_that_fails_costs_the_rule_alone():
    def ask(which, action):
        raise RuntimeError("no")

    assert found_by_asking(ask, LOW, HIGH) is None
