"""What is offered at the prompt: help, and completion in the shell."""

import shutil
import subprocess

import pytest

from penstock.algorithms.registry import ALGORITHMS
from penstock.cli import completion, train

TRY = """
words=("$@"); COMP_WORDS=("${words[@]}"); COMP_CWORD=$((${#words[@]} - 1)); COMPREPLY=()
_shtab_penstock penstock "${words[$COMP_CWORD]}" "${words[$COMP_CWORD - 1]}"
echo "${COMPREPLY[*]}"
"""


@pytest.fixture(scope="module")
def script(tmp_path_factory):
    from contextlib import redirect_stdout

    path = tmp_path_factory.mktemp("completion") / "penstock"
    with path.open("w") as file, redirect_stdout(file):
        assert completion.run(["bash"]) == 0
    return path


@pytest.mark.skipif(shutil.which("bash") is None, reason="the script is one for bash")
@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("tr", "train"),
        ("train cross", "crossq"),
        ("train rfo --world soft/jumper-", "soft/jumper-mini"),
        ("train rfo --uniform", "--uniform-coefficient"),
        ("train sac --seeds 3 --actor-learning", "--actor-learning-rate"),
        ("train sac --no-learn", "--no-learn-temperature"),
        ("evaluate --checkpoint b", "best"),
        ("export --to o", "onnx"),
        ("play --view", "--viewer"),
        ("plot a b --x cpu", "cpu_seconds"),
        ("sweep sapo --world classic/cart", "classic/cartpole-swingup"),
        ("train --conf", "--config"),
        ("train sac --film", "--film-seconds"),
        ("train sac --evaluation", "--evaluation-episodes"),
        ("resume --film", "--film-seconds"),
    ],
)
def test_words_are_completed(script, words, expected):
    shell = ["bash", "-c", f"source {script}\n{TRY}", "bash", "penstock", *words.split(" ")]
    completed = subprocess.run(shell, capture_output=True, text=True, check=True, timeout=20)
    assert completed.stdout.strip() == expected


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_the_help_of_an_algorithm_lists_all_of_its_settings(algorithm, capsys):
    with pytest.raises(SystemExit) as ended:
        train.run([algorithm, "--world", "classic/pendulum", "--help"])
    text = capsys.readouterr().out
    missing = [name for name in ALGORITHMS[algorithm].config.of().flat() if f"--{name.replace('_', '-')}" not in text]
    assert ended.value.code == 0 and missing == [] and "subcommand" not in text
