"""The check itself: what it tries, and what it does not let pass."""

import numpy as np
import pytest

from penstock.export.files import PolicyFile, open_policy, write
from penstock.export.latency import latency
from penstock.export.parity import TOLERANCE, compare
from penstock.observation import ObservationSpec
from penstock.policies.settings import POLICIES
from tests.export.exported_agents import ACTIONS, SIZE, decision


class Overheard(PolicyFile):
    """Decides as another file does, but for a change; remembers what it was asked."""

    def __init__(self, file, change=lambda index, action: action):
        self.file, self.change, self.asked = file, change, []

    def no_memory(self):
        return self.file.no_memory()

    def outputs(self, inputs):
        self.asked.append(inputs)
        action, memory = self.file.outputs(inputs)
        return self.change(len(self.asked) - 1, action), memory


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    made = decision(POLICIES["gaussian"])
    path = tmp_path_factory.mktemp("parity") / "policy.npz"
    write(made, {"world": {"name": "mine"}}, path, "numpy")
    return made, open_policy(path)


def test_random_observations_are_like_those_of_training_and_the_edges_are_far(exported):
    made, file = exported
    heard = Overheard(file)
    parity = compare(made, heard, count=200)
    assert parity.passed and (parity.random, parity.edge) == (200, 14 + 2 * SIZE) and len(heard.asked) == 214 + 2 * SIZE
    asked = np.stack([inputs["observation"] for inputs in heard.asked])
    normal = made.agent.normalizer
    standard = (asked - np.asarray(normal.mean)) / np.sqrt(np.asarray(normal.variance))
    assert np.abs(standard[:200].mean(axis=0)).max() < 0.5 and np.abs(standard[:200].std(axis=0) - 2.0).max() < 0.3
    assert len(np.unique(asked[:200], axis=0)) == 200
    edges = asked[200:]
    assert np.abs(edges).max() >= 1e6 and (edges == 0.0).all(axis=1).any() and (edges == np.float32(1e-40)).any()
    alone = np.abs(standard[200:]) > 900.0
    assert (alone.sum(axis=1) == 1).sum() == 2 * SIZE  # one entry far away, the others at their mean


@pytest.mark.parametrize("index", [0, 57, 205])
@pytest.mark.parametrize("wrong", [2e-5, np.nan, np.inf])
def test_one_wrong_action_among_many_does_not_pass(exported, index, wrong):
    made, file = exported

    def change(now, action):
        return action + np.array([0.0, wrong if now == index else 0.0, 0.0])

    heard = Overheard(file, change)
    parity = compare(made, heard, count=200)
    assert not parity.passed
    np.testing.assert_array_equal(parity.worst, heard.asked[index]["observation"])
    if np.isfinite(wrong):
        assert parity.largest == pytest.approx(wrong, rel=0.05) and parity.largest > TOLERANCE


def test_points_pixels_and_noise_are_drawn_too(tmp_path):
    made = decision(POLICIES["coupling"], spec=ObservationSpec(2, pixels=(32, 32, 1)), mode="noise-fed")
    write(made, {"world": {"name": "mine"}}, tmp_path / "policy.npz", "numpy")
    heard = Overheard(open_policy(tmp_path / "policy.npz"))
    assert compare(made, heard, count=4).passed
    first, second = heard.asked[:2]
    assert first["pixels"].dtype == np.uint8 and (first["pixels"] != second["pixels"]).any()
    assert first["noise"].shape == (ACTIONS,) and (first["noise"] != second["noise"]).all()


def test_latency_counts_the_decisions_of_a_process_of_its_own(exported):
    _, file = exported
    measured = latency(file.path, 50)
    assert 0.0 < measured.median <= measured.percentile_99 < 10.0
