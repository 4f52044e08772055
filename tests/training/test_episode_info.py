"""Success of episodes, at any step and at the last, and means of named numbers."""

import numpy as np

from penstock.training.episode_info import EpisodeInfo

NAN = np.nan


def added(steps, num_envs=2, alive=None):
    info = EpisodeInfo(num_envs)
    for t, step in enumerate(steps):
        diagnostics = {name: np.asarray(values, np.float32) for name, values in step.items()}
        info.add(diagnostics, True if alive is None else np.asarray(alive[t], bool))
    return info


def rates(info, where=(True, True)):
    return {name: flags.tolist() for name, flags in info.successes(np.asarray(where)).items()}


def test_success_at_any_step_and_at_the_last_are_two_things():
    info = added([{"success": [0, 1]}, {"success": [0, 0]}, {"success": [1, 0]}])
    assert rates(info) == {"success_rate": [1, 1], "success_rate_at_end": [1, 0]}
    assert rates(info, (False, True)) == {"success_rate": [1], "success_rate_at_end": [0]}


def test_the_last_step_that_told_counts_and_an_episode_that_told_nothing_is_none():
    info = added([{"success": [1, NAN]}, {"success": [NAN, NAN]}, {}])
    assert rates(info) == {"success_rate": [1, 0], "success_rate_at_end": [1, 0]}
    assert info.tells_success
    assert not added([{"info/x": [1, 1]}, {"success": [NAN, NAN]}]).tells_success


def test_what_comes_after_an_episode_does_not_count():
    info = added([{"success": [0, 0], "info/x": [1, 1]}, {"success": [1, 1], "info/x": [9, 3]}], alive=[(1, 1), (0, 1)])
    assert rates(info)["success_rate"] == [0, 1]
    assert info.means()["info/x"].tolist() == [1, 2]


def test_a_new_episode_begins_without_success_in_its_environment_alone():
    info = added([{"success": [1, 1]}])
    info.begin(np.array([True, False]))
    assert rates(info) == {"success_rate": [0, 1], "success_rate_at_end": [0, 1]}


def test_named_numbers_are_means_over_the_steps_that_told_them():
    info = added([{"info/x": [1, NAN]}, {"info/x": [NAN, NAN], "info/y": [NAN, 5]}, {"info/x": [4, NAN]}])
    np.testing.assert_array_equal(info.means()["info/x"], np.float32([2.5, NAN]))
    np.testing.assert_array_equal(info.means()["info/y"], np.float32([NAN, 5.0]))
    assert info.take_mean() == {"info/x": 2.5, "info/y": 5.0}
    after = info.take_mean()
    assert np.isnan([after["info/x"], after["info/y"]]).all(), "nothing came since"


def test_forgetting_keeps_that_success_is_told():
    info = added([{"success": [1, 1], "info/x": [1, 1]}])
    info.forget()
    assert info.tells_success and rates(info) == {"success_rate": [0, 0], "success_rate_at_end": [0, 0]}
    assert np.isnan(info.means()["info/x"]).all()
