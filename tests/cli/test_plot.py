"""`penstock plot`: what it draws and prints, and how it answers to what cannot be drawn."""

import json

import numpy as np
import pytest

from penstock._errors import ConfigurationError
from penstock.cli.plot import each_with_its_option, named_runs
from tests.run_folders import write_run


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """Folders of two settings of RFO, two seeds each, and of SAPO on two worlds; the working directory holds them."""
    monkeypatch.chdir(tmp_path)
    for seed in range(2):
        write_run(tmp_path / f"fast-{seed}", [0.0, 5.0 + seed], seed=seed, settings={"actor_learning_rate": 0.002})
        write_run(tmp_path / f"slow-{seed}", [0.0, 3.0 + seed], seed=seed, settings={"actor_learning_rate": 0.001})
        for world in ("soft/jumper-mini", "classic/pendulum"):
            folder = tmp_path / f"sapo-{world[:4]}-{seed}"
            write_run(folder, [0.0, 4.0 + seed], seed=seed, algorithm="sapo", world=world)
        write_run(tmp_path / f"rfo-clas-{seed}", [0.0, 6.0 + seed], seed=seed, world="classic/pendulum")
    return tmp_path


def listing(folder):
    return {path.name for path in folder.iterdir() if path.is_file()}


def test_arms_are_named_by_what_differs(penstock, runs):
    code, out, err = penstock("plot", *sorted(runs.glob("fast-*")), *sorted(runs.glob("slow-*")))
    assert code == 0 and err == ""
    words = " ".join(out.split())
    assert "rfo, actor_learning_rate" in words and "5.500 [5.000, 6.000]" in words and "3.500 [3.000, 4.000]" in words
    assert listing(runs) == {"curves.png", "curves.json", "curves.md"}
    assert [row["arm"] for row in json.loads((runs / "curves.json").read_text())["rows"]] == [
        "rfo, actor_learning_rate = 0.002",
        "rfo, actor_learning_rate = 0.001",
    ]


def test_names_formats_width_and_csv(penstock, runs):
    code, out, err = penstock(
        *("plot", "$fast$=fast-*", "slow=slow-0", "slow=slow-1", "--output", "figures/f.pdf"),
        *("--csv", "figures/f.csv", "--width", "3.25", "--title", "a_b$x^{$", "--metric", "eval/return_mean"),
    )
    assert code == 0 and err == ""
    assert listing(runs / "figures") == {"f.pdf", "f.json", "f.md", "f.csv"}
    header, *rows = (runs / "figures" / "f.csv").read_text().splitlines()
    assert header == "world,arm,line,seed,env_steps,eval/return_mean,low,high"
    assert rows[:2] == ["soft/jumper-mini,$fast$,iqm,,1000,-1,-1,-1", "soft/jumper-mini,$fast$,iqm,,2000,4.5,4,5"]
    assert "soft/jumper-mini,slow,seed,1,2000,3,," in rows
    assert out.splitlines()[-1] == "figures/f.csv" and "$fast$" in out


def test_several_worlds(penstock, runs):
    folders = ["rfo=fast-*", "rfo=rfo-clas-*", "sapo=sapo-*"]
    code, out, err = penstock("plot", *folders, "--output", "f.svg")
    assert code == 0 and listing(runs) == {"f.svg", "f-worlds.svg", "f.json", "f.md"}
    assert "note: Scores are not normalised, because soft/jumper-mini has no reference" in err
    assert "all worlds, read at 2,000 environment steps" in out and "P(better than rfo)" in " ".join(out.split())
    code, out, err = penstock(
        *("plot", "--normalize", "soft/jumper-mini=0,10", "--normalize", "classic/pendulum=0,10", *folders),
        *("--baseline", "sapo", "--csv", "f.csv"),
    )
    assert code == 0 and err == ""
    # Normalised: RFO 0.5 0.6 0.6 0.7, SAPO 0.4 0.5 0.4 0.5; RFO above SAPO: 3.5 of 4 pairs, and all.
    rfo = next(line for line in out.splitlines() if line.startswith("rfo  ") and "0.6000" in line)
    assert "0.9375" in rfo
    assert "f-worlds.csv" in out


def test_arms_without_a_world_in_common(penstock, runs):
    code, _, err = penstock("plot", "fast-0", "sapo-clas-0")
    assert code == 0 and "note: No arm has runs on every world" in err
    assert listing(runs) == {"curves.png", "curves.json", "curves.md"}


@pytest.mark.parametrize("columns", [200, 80, 60, 40])
def test_tables_fit_the_terminal(penstock, runs, monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", str(columns))
    code, out, _ = penstock("plot", *sorted(runs.glob("fast-*")), *sorted(runs.glob("slow-*")))
    assert code == 0
    assert max(map(len, out.splitlines())) <= columns
    assert "[5.000, 6.000]" in out and "0.002" in out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["mine=fast-0", "mine=slow-1"],
         "'mine' names runs whose settings differ: actor_learning_rate = 0.002 in fast-0 and 0.001 in slow-1."),
        (["fast-0", "fast-0"], "fast-0 is given twice: seed 0 of 'rfo' would count twice. Leave one out."),
        (["mine=nope"], "There is no run folder nope: it does not exist. Name the folder that a run wrote."),
        (["mine=nope-*"], "runs = 'mine=nope-*': no folder fits the pattern nope-*."),
        (["=fast-0"], "runs = '=fast-0': write RUN or NAME=RUN"),
        (["mine="], "runs = 'mine=': write RUN or NAME=RUN"),
        (["fast-0", "--normalize", "soft/jumper-mini=0,1"], "concerns several worlds, and all runs are of one."),
        (["sapo-soft-0", "sapo-clas-0", "--normalize", "soft/jumper=0,1"], "Did you mean 'soft/jumper-mini'?"),
        (["sapo-soft-0", "sapo-clas-0", "--baseline", "sapp"], "baseline = 'sapp': is no arm. Did you mean 'sapo'?"),
        (["fast-0", "--width", "0.5"], "width = 0.5: must lie between 1.5 and 100 inches"),
        (["fast-0", "--output", "f.csv"], "output = 'f.csv': must end in .png, .svg or .pdf; for numbers, add --csv"),
        (["fast-0", "--output", "f.jpg"], "output = 'f.jpg': must end in .png, .svg or .pdf"),
        (["fast-0", "--csv", "f.png"], "csv = 'f.png': must end in .csv"),
        (["fast-0", "--csv", "fast-1"], "csv = 'fast-1': must end in .csv"),
        (["."], ". is not a run folder: it has no metrics.jsonl. It holds run folders: name them, for example fast-0."),
    ],
)  # fmt: skip
def test_what_cannot_be_drawn_is_a_sentence(penstock, runs, arguments, said):
    code, out, err = penstock("plot", *arguments)
    assert code == 2 and said in " ".join(err.split()), out + err
    assert listing(runs) == set(), "a command that is refused writes nothing"


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("metrics.jsonl", b"", "is empty: the run stopped before its first report"),
        ("metrics.jsonl", b"{}\n", "has no line with 'eval/return_deterministic'"),
        ("metrics.jsonl", b"[]\n{}\n", "Line 1 of fast-0/metrics.jsonl is not a JSON object. Delete that line"),
        ("metrics.jsonl", b"\xff\xfe\x00\n{}\n", "Line 1 of fast-0/metrics.jsonl is not JSON"),
        ("metrics.jsonl", b'{"env_steps": "x", "eval/return_deterministic": 1}\n', 'env_steps = "x": must be a number'),
        ("config.json", b"{", "fast-0/config.json is not JSON"),
        ("config.json", b"[]", "fast-0/config.json is not a JSON object"),
        ("config.json", b"\xff", "fast-0/config.json is not JSON"),
    ],
)  # fmt: skip
def test_damaged_files_are_sentences(penstock, runs, file, content, said):
    (runs / "fast-0" / file).write_bytes(content)
    code, _, err = penstock("plot", "fast-0")
    assert code == 2 and said in err and listing(runs) == set()


def test_a_folder_whose_name_has_an_equals_sign_is_a_folder(runs):
    write_run(runs / "lr=1", np.zeros(2))
    assert [(name, str(path)) for name, path in named_runs("lr=1")] == [("", "lr=1")]
    assert [(name, str(path)) for name, path in named_runs("a=lr=1")] == [("a", "lr=1")]
    assert [(name, str(path)) for name, path in named_runs("my name=fast-?")] == [
        ("my name", "fast-0"),
        ("my name", "fast-1"),
    ]
    with pytest.raises(ConfigurationError, match="write RUN or NAME=RUN"):
        named_runs("  =fast-0")


@pytest.mark.parametrize(
    ("given", "read"),
    [
        ("--normalize A=0,1 B=0,2 run", "--normalize A=0,1 --normalize B=0,2 run"),
        ("--normalize A=0,1 --normalize B=-1,2 C=1,2", "--normalize A=0,1 --normalize B=-1,2 --normalize C=1,2"),
        ("--normalize=A=0,1 B=0,2", "--normalize=A=0,1 --normalize B=0,2"),
        ("--normalize arms x=runs/a,b", "--normalize arms x=runs/a,b"),
        ("--normalize A=0,1 run B=0,2", "--normalize A=0,1 run B=0,2"),
        ("B=0,2 --output f.png", "B=0,2 --output f.png"),
    ],
)
def test_values_of_normalize(given, read):
    assert each_with_its_option(given.split()) == read.split()
