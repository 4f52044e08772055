import json
import sys

import numpy as np
import pytest
from PIL import Image

from penstock._errors import PenstockError
from penstock.reports.curves import plot_runs, plot_single, summary_table
from penstock.reports.runs import RunError, read_run, seed_curves


@pytest.fixture
def make_run(tmp_path):
    def make(name, values, *, seed=0, steps=None, algorithm="rfo", world="soft/jumper-mini", **config):
        folder = tmp_path / name
        folder.mkdir()
        seeds = [seed] if np.ndim(values) == 1 else list(range(seed, seed + len(values)))
        settings = {"algorithm": algorithm, "world": world, "seed": seed, "seeds": len(seeds), **config}
        (folder / "config.json").write_text(json.dumps(settings))
        curves = np.atleast_2d(values)
        steps = np.arange(1, curves.shape[1] + 1) * 1000 if steps is None else steps
        with (folder / "metrics.jsonl").open("w") as file:
            for k, step in enumerate(steps):
                clock = {"env_steps": int(step), "wall_seconds": step / 500, "cpu_seconds": step / 100}
                file.write(json.dumps({**clock, "train/critic_loss": 0.1}) + "\n")
                for one, curve in zip(seeds, curves, strict=True):
                    row = {**clock, "eval/return_mean": curve[k] - 1, "eval/return_deterministic": curve[k]}
                    row |= {"eval/forward_velocity": curve[k] / 10} | ({"seed": one} if len(seeds) > 1 else {})
                    file.write(json.dumps(row) + "\n")
        return folder

    return make


def assert_drawn(path, colors=("#0072B2",)):
    """The PNG holds pixels of each line colour and much white."""
    picture = np.asarray(Image.open(path).convert("RGB")).astype(int)
    assert (picture == 255).all(-1).mean() > 0.5
    for color in colors:
        wanted = [int(color[i : i + 2], 16) for i in (1, 3, 5)]
        assert (np.abs(picture - wanted).max(-1) < 8).sum() > 100, color


def test_summary_table_of_hand_numbers(make_run):
    runs = [
        make_run("many", [[0.0, 10.0], [0.0, 20.0], [0.0, 30.0]]),
        make_run("one", [5.0, 7.0], algorithm="shac", steps=[1000, 3000]),
    ]
    first, second = summary_table(runs)
    assert (first.arm, first.seeds, first.env_steps) == ("rfo", 3, 2000)
    assert first.final.value == 20 and first.area.value == 10
    assert first.final.low == 10 and first.final.high == 30
    assert first.cpu_seconds == pytest.approx(20 / 3)  # one program trained three seeds
    assert second.final.value == 7 and np.isnan(second.final.low)
    assert second.area.value == 6
    assert second.row()["final IQM [95 % interval]"] == "7.000"


def test_seeds_of_several_folders_form_one_arm(make_run):
    rows = summary_table([make_run(f"run{s}", [float(s), 10.0 + s], seed=s) for s in range(4)])
    assert [(row.arm, row.seeds) for row in rows] == [("rfo", 4)]
    assert rows[0].final.value == 11.5


def test_labels_and_worlds_split_arms(make_run):
    rows = summary_table(
        [make_run("a", [1.0]), make_run("b", [2.0], label="rfo, K = 4"), make_run("c", [3.0], world="classic/pendulum")]
    )
    assert [(row.world, row.arm) for row in rows] == [
        ("soft/jumper-mini", "rfo"),
        ("soft/jumper-mini", "rfo, K = 4"),
        ("classic/pendulum", "rfo"),
    ]


def test_arms_end_where_their_shortest_seed_ends(make_run):
    short = make_run("short", [1.0, 2.0], seed=1)
    (row,) = summary_table([make_run("long", [1.0, 4.0, 100.0]), short])
    assert (row.env_steps, row.final.value) == (2000, 3.0)


def test_plot_runs_writes_figure_and_table(make_run, tmp_path):
    curve = np.linspace(0, 50, 20)
    runs = [make_run("rfo", curve + np.array([[0.0], [5.0], [9.0]])), make_run("shac", curve / 2, algorithm="shac")]
    files = plot_runs(runs, tmp_path / "out" / "compare.png")
    assert [file.name for file in files] == ["compare.png", "compare.svg", "compare.json", "compare.md"]
    assert_drawn(files[0], ["#0072B2", "#D55E00"])
    svg = files[1].read_text()
    for text in ("rfo", "3 seeds", "shac", "1 seed", "environment steps", "return of deterministic evaluation"):
        assert f"<!-- {text} -->" in svg or text in svg, text
    table = json.loads(files[2].read_text())
    assert table["rows"][0]["arm"] == "rfo" and table["rows"][0]["final"]["value"] == pytest.approx(50 + 14 / 3)
    assert table["rows"][1]["final"]["low"] is None  # no interval from one seed, and no NaN in JSON
    assert "| rfo " in files[3].read_text()
    assert not list((tmp_path / "out").glob(".*"))  # nothing half-written is left


@pytest.mark.parametrize("x", ["wall_seconds", "cpu_seconds"])
def test_time_axes(make_run, tmp_path, x):
    run = make_run("run", [[1.0, 2.0, 3.0], [2.0, 3.0, 4.0]])
    (first, _) = seed_curves(read_run(run), "eval/return_deterministic", x)
    np.testing.assert_allclose(first.x, np.arange(1, 4) * (2.0 if x == "wall_seconds" else 10.0 / 2))
    assert "(s)" in plot_runs([run], tmp_path / "time", x=x)[1].read_text()


def test_worlds_get_panels_even_without_common_steps(make_run, tmp_path):
    runs = [
        make_run("a", [1.0, 2.0], seed=0),
        make_run("b", [3.0], seed=1, steps=[9000]),
        make_run("c", [1.0, 2.0], world="classic/pendulum"),
    ]
    files = plot_runs(runs, tmp_path / "figure.svg")
    svg = files[1].read_text()
    assert "classic/pendulum" in svg and "soft/jumper-mini" in svg
    assert json.loads(files[2].read_text())["rows"][0]["final"]["value"] is None


def test_plot_single_shows_both_returns_and_the_speed(make_run):
    run = make_run("run", np.linspace(0, 30, 15))
    path = plot_single(run)
    assert path == run / "figures" / "return.png"
    assert_drawn(path, ["#0072B2", "#D55E00", "#009E73"])
    svg = path.with_suffix(".svg").read_text()
    for text in ("deterministic", "stochastic", "forward velocity (m/s)", "return per episode", "seed 0"):
        assert text in svg, text


def test_a_single_evaluation_still_plots(make_run, tmp_path):
    assert_drawn(plot_single(make_run("one", [3.0])))
    assert_drawn(plot_single(make_run("seeds", [[3.0], [4.0]])))
    assert_drawn(plot_runs([tmp_path / "one", tmp_path / "seeds"][1:], tmp_path / "compare")[0])


def test_a_run_that_went_on_counts_each_step_once(make_run):
    run = make_run("run", [1.0, 2.0])
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"env_steps": 2000, "wall_seconds": 9, "cpu_seconds": 9, "eval/return_deterministic": 8}\n{"env_st')
    (curve,) = seed_curves(read_run(run), "eval/return_deterministic")
    np.testing.assert_array_equal(curve.values, [1, 8])


def test_a_value_that_is_not_finite_is_not_hidden(make_run):
    (row,) = summary_table([make_run("run", [[1.0, np.nan], [1.0, 2.0], [1.0, 2.0], [1.0, 3.0]])])
    assert np.isnan(row.final.value)


def test_errors_are_sentences(make_run, tmp_path):
    with pytest.raises(RunError, match="no run folder"):
        plot_single(tmp_path / "nowhere")
    (tmp_path / "bare").mkdir()
    with pytest.raises(RunError, match=r"has no metrics\.jsonl"):
        plot_single(tmp_path / "bare")
    (tmp_path / "bare" / "metrics.jsonl").write_text("")
    with pytest.raises(RunError, match="stopped before its first report"):
        plot_single(tmp_path / "bare")
    (tmp_path / "bare" / "metrics.jsonl").write_text('{"env_steps": 1, "train/critic_loss": 1}\n')
    with pytest.raises(RunError, match="no evaluation yet"):
        plot_single(tmp_path / "bare")
    (tmp_path / "bare" / "metrics.jsonl").write_text('{"env_st\n{"env_steps": 1}\n')
    with pytest.raises(RunError, match=r"Line 1 .* is not JSON"):
        plot_single(tmp_path / "bare")
    run = make_run("run", [1.0])
    with pytest.raises(RunError, match="Did you mean 'eval/return_deterministic'"):
        plot_runs([run], tmp_path / "f", metric="eval/return_determinstic")
    with pytest.raises(RunError, match="would count twice"):
        plot_runs([run, make_run("again", [2.0])], tmp_path / "f")
    with pytest.raises(PenstockError, match="Did you mean 'env_steps'"):
        plot_runs([run], tmp_path / "f", x="env_step")
    with pytest.raises(RunError, match="no runs to compare"):
        plot_runs([], tmp_path / "f")


def test_missing_matplotlib_says_what_to_install(make_run, monkeypatch):
    run = make_run("run", [1.0])
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(PenstockError, match=r"pip install 'penstock\[plots\]'"):
        plot_single(run)
