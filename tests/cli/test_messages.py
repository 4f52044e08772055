"""What a newcomer may type, and the sentence that answers it (F10, F26). None of these commands trains."""

import json
import os
import sys

import pytest

from penstock.algorithms.registry import algorithm_entry
from penstock.cli._run import plan_from_options
from penstock.cli.main import COMMANDS, dispatch
from penstock.cli.train import command_line, parse_train_options

TRAIN = ("train", "rfo", "--world", "classic/double-integrator", "--run-dir")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["tran"], ["unknown command 'tran'", "Did you mean 'train'"]),
        (["train", "rof", "--world", "classic/pendulum"], ["Unknown algorithm 'rof'", "Did you mean 'rfo'"]),
        (["train", "--world", "classic/pendulum"], ["name the algorithm first", "penstock train rfo"]),
        (["train", "rfo"], ["--world is missing", "--world soft/jumper-mini"]),
        (["train", "rfo", "--world", "nope"], ["Unknown world 'nope'", "classic/pendulum", "penstock worlds"]),
        (["train", "rfo", "--world", "classic/pendulun"], ["Did you mean 'classic/pendulum'"]),
        (["train", "rfo", "--world", "missing.py:Task"], ["There is no file 'missing.py'"]),
        (["train", "rfo", "--world=classic/pendulum", "--windw", "3"], ["--windw", "Perhaps you meant", "--window"]),
        (["train", "rfo", "--world", "classic/pendulum", "--window", "x"], ["--window", "'x'"]),
        (["train", "rfo", "--world", "classic/pendulum", "--window", "-3"], ["window = -3: must be at least 1"]),
        (["train", "rfo", "--world", "classic/pendulum", "--discount", "nan"], ["discount = nan"]),
        (["train", "rfo", "--world", "classic/pendulum", "--steps", "1e6"], ["--steps", "1e6"]),
        (["train", "rfo", "--world", "classic/pendulum", "--seed", "-1"], ["seed = -1: must lie in"]),
        (["train", "rfo", "--world", "classic/pendulum", "--window", "500"], ["window = 500", "episode length 200"]),
        (["train", "rfo", "--world", "classic/pendulum", "--policy", "gaussian"], ["rfo needs", "--policy flow"]),
        (["train", "sapo", "--world", "classic/pendulum", "--policy", "flow"], ["sapo needs", "--policy gaussian"]),
        (["train", "rfo", "--world", "classic/pendulum", "--policy", "gaus"], ["policy = 'gaus'", "mean 'gaussian'"]),
        (["train", "rfo", "--world", "classic/pendulum", "--world-option", "mass"], ["'mass'", "name=value"]),
        (["train", "rfo", "--world", "classic/pendulum", "--world-option", "mas=1"], ["Did you mean 'mass'"]),
        (["train", "rfo", "--world", "classic/pendulum", "--world-option", "mass=x"], ["mass = 'x'", "a number"]),
        (
            ["train", "rfo", "--world", "classic/pendulum", "--precision", "bfloat16"],
            ["precision = 'bfloat16': is of updates from a replay memory, and rfo learns from none", "Leave it out"],
        ),
        (
            ["train", "sac", "--world", "classic/pendulum", "--target-step-std", "0.2"],
            ["target_step_std: does nothing with policy", "noisy-flow"],
        ),
        (
            ["train", "sac-flow", "--world", "classic/pendulum", "--no-drift"],
            ["drift: is no setting any more", "NoisyFlowSettings"],
        ),
        (
            ["train", "sac", "--world=classic/pendulum", "--no-learn-temperature", "--temperature-learning-rate=1"],
            ["temperature_learning_rate = '1': contradicts learn_temperature = False"],
        ),
        (["evaluate"], ["run folder"]),
        (["evaluate", "nope"], ["nope holds no run"]),
        (["evaluate", "nope", "--checkpoint", "first"], ["--checkpoint", "best", "last"]),
        (["evaluate", "nope", "--episodes", "0"], ["episodes = 0"]),
        (["resume", "nope"], ["nope holds no run"]),
        (["video", "nope"], ["nope holds no run"]),
        (["plot", "nope"], ["no run folder nope"]),
        (["plot"], ["run"]),
        (["check-world", "nope"], ["Unknown world 'nope'"]),
        (["check-world", "classic/pendulum", "--num-envs", "0"], ["num_envs = 0"]),
        (["worlds", "--all"], ["--all"]),
    ],
    ids=" ".join,
)
def test_mistakes_end_in_a_sentence(penstock, tmp_path, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    code, out, err = penstock(*arguments)
    assert code == 2
    said = " ".join((out + err).replace("│", " ").split())
    for word in words:
        assert word in said, said
    assert list(tmp_path.iterdir()) == [], "a command that is refused writes nothing"


def test_a_run_folder_that_cannot_be_one(penstock, tmp_path):
    (tmp_path / "file").write_text("")
    code, _, err = penstock(*TRAIN, tmp_path / "file" / "run")
    assert code == 2 and "is a file" in err
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.tex").write_text("")
    code, _, err = penstock(*TRAIN, tmp_path / "thesis")
    assert code == 2 and "chapter.tex" in err and "not a run" in err
    code, _, err = penstock(*TRAIN, tmp_path / ("x" * 300))
    assert code == 2 and "too long" in err


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_no_permission(penstock, tmp_path):
    (tmp_path / "closed").mkdir(mode=0o500)
    code, _, err = penstock(*TRAIN, tmp_path / "closed" / "run")
    assert code == 2 and "permission" in err


def test_a_damaged_config_file(penstock, tmp_path):
    for content, word in (("{", "cannot be read"), ("[]", "JSON object"), ('{"algorithm": "rfo"}', "'world'")):
        (tmp_path / "config.json").write_text(content)
        for command in ("resume", "evaluate", "video"):
            code, _, err = penstock(command, tmp_path)
            assert code == 2 and word in err and "config.json" in err


def test_without_arguments_the_usage_is_shown(penstock):
    for arguments in ((), ("--help",), ("-h",), ("help",)):
        code, out, _ = penstock(*arguments)
        assert code == 0 and "usage: penstock COMMAND" in out
        for name, summary in COMMANDS.items():
            assert name in out and summary in out
    code, out, _ = penstock("--version")
    assert code == 0 and out.startswith("penstock ")


def test_train_without_an_algorithm_lists_them(penstock):
    code, out, err = penstock("train")
    assert code == 2 and out == "" and "rfo" in err and "--world" in err
    code, out, _ = penstock("train", "--help")
    assert code == 0 and "usage: penstock train ALGORITHM --world WORLD" in out


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_a_text_for_every_option(penstock, command):
    arguments = ["train", "rfo", "--world", "classic/pendulum"] if command == "train" else [command]
    code, out, err = penstock(*arguments, "--help")
    assert code == 0 and err == "" and f"usage: penstock {command}" in out
    assert "(required)" in out or "default" in out or command in ("worlds", "algorithms")
    assert "Config" not in out, "names of Python classes are no help"


def test_help_shows_the_preset_of_the_world(penstock):
    _, out, _ = penstock("train", "rfo", "--world", "classic/deceptive-basins", "--help")
    words = " ".join(out.replace("│", " ").split())
    assert "--window INT H, environment steps per gradient window" in words
    assert "Papers: 32. (default: 8)" in words


def test_help_shows_a_preset_by_name_on_a_world_whose_package_is_not_there(penstock):
    _, out, _ = penstock("train", "nfpo", "--world", "playground/Go1Getup", "--preset", "rsl-rl", "--help")
    words = " ".join(out.replace("│", " ").split())
    assert "environments that step together. (default: 8192)" in words and "rsl_rl: 0.2. (default: 0.2)" in words
    assert "SB3, rsl_rl: clip. (default: clip)" in words


def test_ctrl_c_before_anything_is_a_word_not_a_traceback(monkeypatch, capsys):
    def interrupted(name):
        raise KeyboardInterrupt

    monkeypatch.setattr("importlib.import_module", interrupted)
    assert dispatch(["worlds"]) == 130
    assert capsys.readouterr().err == "penstock worlds: interrupted\n"


def test_algorithms_and_worlds_are_listed(penstock):
    code, out, _ = penstock("algorithms")
    assert code == 0
    for name in ("apg", "shac", "shac2", "sapo", "rfo"):
        assert any(line.startswith(f"{name} ") for line in out.splitlines())
    code, out, _ = penstock("worlds")
    assert code == 0 and "classic/pendulum" in out and "soft/jumper-mini" in out and "gradients" in out


def test_the_last_of_two_worlds_brings_its_preset():
    entry = algorithm_entry("sac")
    twice, once = (
        parse_train_options(entry, [*first, "--world", "classic/multi-goal"])
        for first in (["--world", "dmc/walker-walk", "--preset", "light", "--preset="], [])
    )
    assert twice == once and once.num_envs != parse_train_options(entry, ["--world", "dmc/walker-walk"]).num_envs


@pytest.mark.parametrize("flag", ["--no-learn-temperature", "--no_learn_temperature"])
def test_a_switch_stands_for_a_value(flag):
    light = ["--world", "dmc/walker-walk", "--preset", "light"]
    for name, given in (("sac", light), ("sapo", ["--world", "classic/pendulum"])):
        entry = algorithm_entry(name)
        plain = parse_train_options(entry, given)
        assert parse_train_options(entry, [flag, *given]).settings == plain.settings.changed(learn_temperature=False)
        assert parse_train_options(entry, [*given, "--learn-temperature"]) == plain


def test_help_is_shown_whatever_else_was_typed(penstock):
    code, out, _ = penstock("train", "rfo", "--world", "classic/pendulum", "--precision", "bfloat16", "--help")
    assert code == 0 and "--window" in out


def parsed(*arguments):
    name, rest, given = command_line(list(arguments))
    return parse_train_options(algorithm_entry(name), rest, given)


def test_options_come_from_the_command_then_from_the_file_then_from_the_preset(tmp_path):
    file = tmp_path / "x.yaml"
    file.write_text(
        "algorithm: sac\nworld: classic/pendulum\nworld_options: {mass: 2.0, length: 1.5}\nsteps: 500\nvideo: false\n"
        "run_dir: runs/mine\nbatch_size: 16\npolicy: noisy-flow\nflow_steps: 3\nlogger: [a.py:A]\n"
    )
    options = parsed("--config", str(file))
    assert (options.algorithm, options.world, options.steps) == ("sac", "classic/pendulum", 500)
    assert not options.film.video
    assert (str(options.run_dir), options.loggers.logger, options.num_envs) == ("runs/mine", ("a.py:A",), 64)
    assert options.settings.flat()["flow_steps"] == 3 and options.settings.batch_size == 16
    assert plan_from_options(options).world_options == {"mass": 2.0, "length": 1.5}
    flags = (
        "--steps",
        "7",
        "--video",
        "--batch-size=8",
        "--world-option",
        "mass=3",
        "--run-dir",
        "x",
        "--flow-steps=2",
    )
    options = parsed("--config", str(file), *flags)
    assert (options.steps, options.film.video, options.settings.batch_size, str(options.run_dir)) == (7, True, 8, "x")
    assert options.settings.flat()["flow_steps"] == 2
    assert plan_from_options(options).world_options == {"mass": 3, "length": 1.5}
    options = parsed("sac", "--config", str(file), "--policy", "gaussian")
    assert options.settings.policy.policy == "gaussian", "settings of a kind that is not chosen are left out"
    options = parsed("td3", "--config", str(file), "--world", "classic/multi-goal", "--policy", "deterministic")
    assert (options.algorithm, options.world) == ("td3", "classic/multi-goal")


@pytest.mark.parametrize(
    ("content", "flag", "rate"),
    [
        ("learn_temperature: false", "--learn-temperature", 3e-4),
        ("temperature_learning_rate: null", "--learn-temperature", 3e-4),
        ("temperature_learning_rate: 1e-2", "--no-learn-temperature", None),
        ("learn_temperature: true", "--no-learn-temperature", None),
        ("learn_temperature: false", "--temperature-learning-rate=1e-2", 1e-2),
    ],
)
def test_a_switch_on_the_command_line_wins_over_the_file(tmp_path, content, flag, rate):
    (tmp_path / "x.yaml").write_text(f"algorithm: sac\nworld: classic/pendulum\n{content}\n")
    assert parsed("--config", str(tmp_path / "x.yaml"), flag).settings.flat()["temperature_learning_rate"] == rate


@pytest.mark.parametrize(
    ("content", "flags", "words"),
    [
        ("world: classic/pendulum", [], ["x.yaml names no algorithm. Write `algorithm: sac` there"]),
        ("algorithm: sac", [], ["--world is missing: penstock train sac"]),
        ("algorithm: sca\nworld: classic/pendulum", [], ["x.yaml: Unknown algorithm 'sca'", "Did you mean 'sac'"]),
        ("algorithm: sac\nworld: classic/pendulm", [], ["x.yaml: Unknown world 'classic/pendulm'"]),
        ("algorithm: rfo\nworld: classic/pendulum\nwindow: 500", [], ["x.yaml: window = 500: must not exceed"]),
        ("algorithm: rfo\nworld: classic/pendulum\nwindow: 5", ["--window", "500"], ["train: window = 500: must"]),
        ("algorithm: sac\nworld: classic/pendulum\nworld_options: {mas: 1}", [], ["unknown option 'mas'"]),
        ("algorithm: sac\nworld: classic/pendulum\nsteps: no", [], ["x.yaml: steps = 'no': must be a whole number"]),
    ],
)  # fmt: skip
def test_mistakes_in_a_file_name_the_file(penstock, tmp_path, monkeypatch, content, flags, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.yaml").write_text(content)
    code, out, err = penstock("train", "--config", "x.yaml", *flags)
    assert code == 2 and all(word in err for word in words), out + err
    assert [path.name for path in tmp_path.iterdir()] == ["x.yaml"]


def test_a_run_s_config_is_trained_again_elsewhere_or_goes_on(penstock, trained, tmp_path):
    config = trained[0] / "config.json"
    code, _, err = penstock("train", "--config", config, "--run-dir", trained[0], "--no-video")
    assert code == 0 and "continues at step 192" in err and "compiling" not in err
    options = parsed("--config", str(config), "--run-dir", str(tmp_path / "again"))
    assert plan_from_options(options).to_config() == {
        name: value for name, value in json.loads(config.read_text()).items() if name != "world_constants"
    }


def test_loggers_that_are_not_there_are_named_before_anything_is_written(penstock, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    run = ("train", "apg", "--world", "classic/double-integrator", "--run-dir", tmp_path / "run")
    for option, value, words in (
        ("--wandb", "project", "pip install 'penstock[wandb]'"),
        ("--logger", "nowhere.py:Lines", "There is no file 'nowhere.py'"),
    ):
        code, _, err = penstock(*run, option, value)
        assert code == 2 and words in err and not (tmp_path / "run").exists()
