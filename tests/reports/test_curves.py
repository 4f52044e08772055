import csv
import json
import math
import re
import struct
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from penstock._errors import PenstockError
from penstock.reports import curves, profiles
from penstock.reports.arms import compare
from penstock.reports.curves import glyph_note, plot_runs, plot_single, summary_table
from penstock.reports.runs import RunError, read_run, read_runs, seed_curves
from penstock.reports.style import look, save


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
    files = plot_runs(runs, tmp_path / "out" / "compare")
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
    files = plot_runs(runs, tmp_path / "figure.svg", title="Two worlds")
    assert [file.name for file in files] == ["figure.svg", "figure.json", "figure.md"]  # one arm: nothing to compare
    svg = files[0].read_text()
    assert "classic/pendulum" in svg and "soft/jumper-mini" in svg and "Two worlds" in svg
    assert json.loads(files[1].read_text())["rows"][0]["final"]["value"] is None


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


@pytest.fixture
def figures(monkeypatch):
    """The figures that are written, by the name of their file."""
    kept = {}

    def keep(figure, output):
        kept[output.name] = figure
        return save(figure, output)

    monkeypatch.setattr(curves, "save", keep)
    monkeypatch.setattr(profiles, "save", keep)
    return kept


def texts_of(figure):
    """Every text of a figure, a folded one in one line."""
    import matplotlib.text

    return {" ".join(text.get_text().split()) for text in figure.findobj(matplotlib.text.Text)}


NASTY = ["lr $3 vs $4", "a_b$x^{$", "_under", r"\frac{a}{b} & 50% #1", "größer → ½", "$", "x^2", "a{b"]


@pytest.mark.parametrize("end", [".png", ".svg", ".pdf"])
@pytest.mark.parametrize("width", [None, 3.25])
def test_labels_are_drawn_as_they_are_typed(make_run, tmp_path, figures, end, width):
    runs = [make_run(f"{k}", [0.0, k + 1.0], label=label) for k, label in enumerate(NASTY)]
    (path, *_) = plot_runs(runs, tmp_path / f"figure{end}", title="cost in $ of $x_{$", width=width)
    assert path.stat().st_size > 1000
    assert {*NASTY, "cost in $ of $x_{$"} <= texts_of(figures[path.name])


def test_labels_of_few_arms_too(make_run, tmp_path, figures):
    plot_runs([make_run("a", [[0.0, 1.0], [0.0, 2.0]], label="a_b$x^{$")], tmp_path / "f.png")
    assert "a_b$x^{$ 2 seeds" in texts_of(figures["f.png"])


def test_the_ending_is_the_format(make_run, tmp_path):
    run = make_run("a", [1.0, 2.0])
    heads = {"f.png": b"\x89PNG", "f.svg": b"<?xml", "f.pdf": b"%PDF", "F.PDF": b"%PDF"}
    for name, head in heads.items():
        files = plot_runs([run], tmp_path / name)
        assert [file.suffix for file in files] == [tmp_path.joinpath(name).suffix, ".json", ".md"]
        assert files[0].read_bytes().startswith(head)
    first = (tmp_path / "f.pdf").read_bytes()
    assert b"/Type3" not in first  # letters are letters, as journals want them
    assert plot_runs([run], tmp_path / "f.pdf")[0].read_bytes() == first  # no dates: a figure can be made again


@pytest.mark.parametrize("panels", [1, 3])
@pytest.mark.parametrize("width", [3.25, 6.75])
def test_the_width_is_exact(make_run, tmp_path, panels, width):
    runs = [make_run(f"{k}", [1.0, 2.0], world=f"w{k}") for k in range(panels)]
    pdf, svg, png = (plot_runs(runs, tmp_path / f"f{end}", width=width)[0] for end in (".pdf", ".svg", ".png"))
    (box,) = re.findall(rb"/MediaBox \[ ?0 0 ([\d.]+) ", pdf.read_bytes())
    assert float(box) == pytest.approx(72 * width)
    assert f'width="{72 * width:g}pt"' in svg.read_text()
    assert struct.unpack(">I", png.read_bytes()[16:20])[0] == int(width * (160 if width >= 5 else 300))


@pytest.mark.parametrize("width", [0, -1.0, 1.0, math.nan, math.inf, 1000])
def test_a_width_that_cannot_be(make_run, tmp_path, width):
    with pytest.raises(PenstockError, match=r"width = .*: must lie between 1\.5 and 100 inches"):
        plot_runs([make_run("a", [1.0])], tmp_path / "f.png", width=width)


def test_nine_arms_differ_without_colour_and_keep_their_looks(make_run, tmp_path, figures):
    looks = [look(place) for place in range(30)]
    assert len({entry.color for entry in looks[:9]}) == 9
    assert len({(str(entry.dash), entry.marker) for entry in looks}) == 30
    runs = [make_run(f"{k}", np.linspace(0, k + 1, 30), label=f"arm {k}") for k in range(9)]
    plot_runs(runs[:3], tmp_path / "three.png")
    plot_runs(runs, tmp_path / "nine.png")

    def drawn(name):
        lines = [line for line in figures[name].axes[0].lines if len(line.get_xdata()) == 30]
        return [(line.get_color(), line.get_linestyle(), line.get_marker()) for line in lines]

    assert len(drawn("nine.png")) == 9 and drawn("nine.png")[:3] == drawn("three.png")
    assert {f"arm {k}" for k in range(9)} <= texts_of(figures["nine.png"])


def test_an_arm_looks_alike_on_every_world(make_run, tmp_path, figures):
    runs = [
        make_run("a", [1.0, 2.0], world="w1"),
        make_run("b", [1.0, 3.0], world="w2", algorithm="sapo"),
        make_run("c", [1.0, 4.0], world="w2"),
    ]
    plot_runs(runs, tmp_path / "f.png")
    first, second = figures["f.png"].axes
    (rfo,) = (line.get_color() for line in first.lines)
    assert [line.get_color() for line in second.lines] == [look(1).color, rfo]
    assert [axes.get_title(loc="left") for axes in (first, second)] == ["w1", "w2"]
    assert {"rfo", "sapo", "one seed each"} <= texts_of(figures["f.png"])


def read_csv(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_csv_is_what_is_drawn(make_run, tmp_path, figures):
    values = np.array([[0.0, 1.0, 5.0], [0.5, 2.0, np.nan], [1.0, 1 / 3, 9.0]])
    runs = [make_run("a", values, label="a, b"), make_run("b", [2.0, 3.0], algorithm="sapo", steps=[500, 2500])]
    files = plot_runs(runs, tmp_path / "f.png", csv=tmp_path / "numbers" / "f.csv", x="wall_seconds")
    assert files[-1] == tmp_path / "numbers" / "f.csv"
    rows = read_csv(files[-1])
    assert list(rows[0]) == [
        "world", "arm", "line", "seed", "wall_seconds", "eval/return_deterministic", "low", "high"
    ]  # fmt: skip
    lines = [line for line in figures["f.png"].axes[0].lines if line.get_transform() == line.axes.transData]
    drawn = [np.stack([line.get_xdata(), line.get_ydata()], -1) for line in lines]

    def numbers(arm, line, seed):
        mine = [row for row in rows if (row["arm"], row["line"], row["seed"]) == (arm, line, seed)]
        return np.array([[float(row[key] or "nan") for key in list(row)[4:6]] for row in mine])

    wanted = [*(numbers("a, b", "seed", str(k)) for k in range(3)), numbers("a, b", "iqm", "")]
    for one, other in zip([*wanted, numbers("sapo", "iqm", "")], drawn, strict=True):
        np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(numbers("sapo", "seed", "0"), drawn[-1])
    np.testing.assert_allclose(numbers("a, b", "iqm", "")[:, 1], [0.5, (1 + 2 + 1 / 3) / 3, np.nan])
    (band,) = figures["f.png"].axes[0].collections
    low, high = (
        [float(row[end]) for row in rows if row["arm"] == "a, b" and row["line"] == "iqm" and row[end]]
        for end in ("low", "high")
    )
    corners = {tuple(corner) for corner in np.round(band.get_paths()[0].vertices, 9)}
    for x, one, other in zip([2.0, 4.0], low, high, strict=True):
        assert {(x, round(one, 9)), (x, round(other, 9))} <= corners
    assert all(row["low"] == row["high"] == "" for row in rows if row["line"] == "seed" or row["arm"] == "sapo")


def test_the_figure_over_worlds_and_its_csv(make_run, tmp_path, figures):
    runs = [
        make_run(f"{algorithm}{world}", [[0.0, end], [0.0, end + 2]], algorithm=algorithm, world=world)
        for world, scale in (("w1", 1.0), ("w2", 10.0))
        for algorithm, end in (("rfo", 6.0 * scale), ("sapo", 5.0 * scale))
    ]
    files = plot_runs(
        runs, tmp_path / "f.svg", csv=tmp_path / "f.csv", normalize={"w1": (0, 10), "w2": (0, 100)}, baseline="sapo"
    )
    assert [file.name for file in files] == ["f.svg", "f-worlds.svg", "f.json", "f.md", "f.csv", "f-worlds.csv"]
    rows = read_csv(files[-1])
    assert list(rows[0]) == ["arm", "quantity", "threshold", "value", "low", "high"]
    by_quantity = {(row["arm"], row["quantity"]): row for row in rows}
    assert float(by_quantity["rfo", "normalised_iqm"]["value"]) == pytest.approx((0.6 + 0.62) / 2)
    # 6 and 8 against 5 and 7: three of four pairs; 60 and 62 against 50 and 52: all.
    assert float(by_quantity["rfo", "probability_of_improvement"]["value"]) == (0.75 + 1) / 2
    assert ("sapo", "probability_of_improvement") not in by_quantity
    profile = [row for row in rows if (row["arm"], row["quantity"]) == ("rfo", "performance_profile")]
    intervals, improvement, profiles_drawn = figures["f-worlds.svg"].axes
    np.testing.assert_array_equal(profiles_drawn.lines[0].get_ydata(), [float(row["value"]) for row in profile])
    assert intervals.lines[0].get_xdata()[0] == float(by_quantity["rfo", "normalised_iqm"]["value"])
    assert improvement.lines[0].get_xdata()[0] == 0.875
    assert {"normalised IQM", "P(better than sapo)", "rfo", "sapo"} <= texts_of(figures["f-worlds.svg"])
    table = json.loads(files[2].read_text())["over_worlds"]
    assert table["baseline"] == "sapo" and table["references"] == {"w1": [0, 10], "w2": [0, 100]}
    assert table["arms"][0]["probability_of_improvement"]["value"] == 0.875
    assert "normalised IQM" in files[3].read_text()


def test_the_figure_over_worlds_without_references(make_run, tmp_path, figures):
    runs = [make_run(f"{a}{w}", [[1.0], [2.0]], algorithm=a, world=w) for a in ("rfo", "sapo") for w in ("w1", "w2")]
    plot_runs(runs, tmp_path / "f.png", width=3.25)
    assert [axes.get_title(loc="left") for axes in figures["f-worlds.png"].axes] == ["P(better than rfo)"]


def test_names_of_arms_reach_figure_and_tables(make_run, tmp_path, figures):
    runs = [
        make_run("a", [1.0, 2.0], settings={"actor_learning_rate": 0.001}),
        make_run("b", [1.0, 3.0], settings={"actor_learning_rate": 0.002}),
    ]
    files = plot_runs(runs, tmp_path / "f.png")
    assert "rfo, actor_learning_rate = 0.001 1 seed" in texts_of(figures["f.png"])
    rows = json.loads(files[1].read_text())["rows"]
    assert [row["settings"] for row in rows] == [{"actor_learning_rate": "0.001"}, {"actor_learning_rate": "0.002"}]
    assert "| rfo, actor_learning_rate = 0.002 |" in files[2].read_text()
    plot_runs([("slow", runs[0]), ("fast", str(runs[1]))], tmp_path / "g.png")
    assert {"slow 1 seed", "fast 1 seed"} <= texts_of(figures["g.png"])


def test_the_block_of_the_page_runs(make_run, monkeypatch, capsys):
    runs = [make_run(f"runs/{name}", [1.0, 2.0], algorithm=name) for name in ("rfo", "sapo")]
    monkeypatch.chdir(runs[0].parent.parent)
    page = (Path(__file__).parents[2] / "docs" / "plots.md").read_text()
    (block,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    exec(compile(block, "docs/plots.md", "exec"), {})
    assert capsys.readouterr().out.splitlines() == ["RFO sapo", "compare.pdf compare.json compare.md compare.csv"]


def test_letters_that_the_font_lacks_are_told(make_run, tmp_path, recwarn):
    run = make_run("a", [1.0], label="学 x 学习")
    plot_runs([run], tmp_path / "f.pdf")
    assert not [warning for warning in recwarn if "Glyph" in str(warning.message)]
    comparison = compare(read_runs([run]), "eval/return_mean")
    assert glyph_note(comparison) == "The font of figures has no 学 习: a box stands for each. Give other names."
    assert glyph_note(compare(read_runs([("x", run)]), "eval/return_mean")) == ""


@pytest.mark.parametrize("value", ['"12"', "[1]", "{}", "true"])
def test_a_value_that_is_no_number_is_a_sentence(make_run, tmp_path, value):
    run = make_run("a", [1.0])
    line = f'{{"env_steps": 5, "wall_seconds": 1, "cpu_seconds": 1, "eval/return_mean": {value}}}'
    (run / "metrics.jsonl").write_text(f"{line}\n{line}\n")
    with pytest.raises(RunError, match=r"metrics.jsonl: eval/return_mean = .*: must be a number or null"):
        plot_runs([run], tmp_path / "f.png", metric="eval/return_mean")


def test_infinite_values_are_drawn_as_missing(make_run, tmp_path, figures):
    run = make_run("a", [1.0, math.inf, 3.0])
    with (run / "metrics.jsonl").open("a") as file:
        file.write(f'{{"env_steps": 4000, "wall_seconds": 9, "eval/return_deterministic": 1{"0" * 400}}}\n')
    plot_runs([run], tmp_path / "f.png")
    np.testing.assert_array_equal(figures["f.png"].axes[0].lines[0].get_ydata(), [1, np.nan, 3, np.nan])


def test_folders_that_cannot_be_read_are_sentences(make_run, tmp_path):
    run = make_run("group/a", [1.0])
    with pytest.raises(RunError, match=r"It holds run folders: name them, for example .*group/a"):
        plot_runs([run.parent], tmp_path / "f.png")
    with pytest.raises(RunError, match="it is a file"):
        plot_runs([run / "config.json"], tmp_path / "f.png")
    with pytest.raises(RunError, match="cannot be read: file name too long"):
        plot_runs([tmp_path / ("x" * 300)], tmp_path / "f.png")
    (run / "config.json").write_text("{")
    with pytest.raises(RunError, match=r"config.json is not JSON .* Restore the file, or delete it"):
        plot_runs([run], tmp_path / "f.png")
    (run / "config.json").write_text("[" * 100_000)
    with pytest.raises(RunError, match="Restore the file"):
        plot_runs([run], tmp_path / "f.png")
    (run / "config.json").write_bytes(b"\xff\xfe{}")
    with pytest.raises(RunError, match="Restore the file"):
        plot_runs([run], tmp_path / "f.png")


def test_missing_matplotlib_says_what_to_install(make_run, monkeypatch):
    run = make_run("run", [1.0])
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(PenstockError, match=r"pip install 'penstock\[plots\]'"):
        plot_single(run)
