"""``penstock train --sweep``: what cannot be rows of one program is refused, before anything is written."""

import pytest

from penstock._errors import ConfigurationError
from penstock.cli import train

TINY = ("sac", "--world", "classic/double-integrator", "--warmup-steps", "300", "--steps", "600")


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("--sweep", "world_options.force=1,4"), r"sweep: 'world_options\.force' is no learning rate"),
        (("--sweep", "label=a,b"), r"sweep: 'label' is no learning rate.*penstock sweep sac --grid label"),
        (("--sweep", "label=a,b", "--seeds", "2", "--sweep", "actor_learning_rate=1e-4,-1"), r"sweep: 'label' is no"),
        (("--sweep", "video=true,false"), r"sweep: 'video' is no learning rate"),
        (
            ("--sweep", "actor_learning_rate=1e-4,1e-3", "--actor-learning-rate", "1e-3"),
            r"actor_learning_rate is swept, and given as an option, too",
        ),
        (
            ("--no-learn-temperature", "--sweep", "temperature_learning_rate=1e-4,1e-3"),
            r"temperature_learning_rate is None here",
        ),
        (("--sweep", "actor_learning_rate=1e-4,-1"), r"actor_learning_rate = -1"),
        (("--sweep", "learning_rate=1e-4,1e-3"), r"unknown|no setting"),
        (("--sweep", "actor_learning_rate=1e-4,1e-3", "--film-seconds", "3"), r"no run of --sweep is filmed"),
        (("--sweep", "actor_learning_rate=1e-4,1e-3", "--video"), r"no run of --sweep is filmed"),
        (("--film-seconds", "3", "--no-video"), r"film_seconds: does nothing with --no-video"),
    ],
)
def test_what_is_no_row_is_refused(options, sentence, tmp_path):
    with pytest.raises(ConfigurationError, match=sentence):
        train.run([*TINY, *options, "--run-dir", str(tmp_path / "sweep")])
    assert list(tmp_path.iterdir()) == []


def test_the_folder_of_a_run_is_no_folder_of_a_sweep(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ConfigurationError, match="is the folder of a run"):
        train.run([*TINY, "--sweep", "actor_learning_rate=1e-4,1e-3", "--run-dir", str(tmp_path)])
