import json

import numpy as np
import pytest

from distill.cli import main
from distill.scaling_law import PowerLaw, bootstrap, check_reach, fit_power_law, interval
from distill.scaling_report import compare, fit_recipes, read_runs

X = np.array([1e6, 3e6, 1e7, 3e7, 1e8])
LAW = PowerLaw(floor=20.0, amount=25.0, exponent=0.3, unit=1e7)


def errors(law: PowerLaw, x: np.ndarray) -> np.ndarray:
    return np.array([law.error(value) for value in x])


@pytest.mark.parametrize(
    "law",
    [
        LAW,
        PowerLaw(floor=1e-3, amount=3.0, exponent=0.05, unit=1e7),
        PowerLaw(floor=0.4, amount=0.2, exponent=1.1, unit=1e7),
    ],
)
def test_points_on_a_law_give_the_law(law):
    found = fit_power_law(X, errors(law, X))
    np.testing.assert_allclose(errors(found, X), errors(law, X), rtol=1e-6)
    further = np.array([3e8, 1e9])
    np.testing.assert_allclose(errors(found, further), errors(law, further), rtol=1e-3)


def test_needed_turns_error_around():
    assert LAW.needed(LAW.error(7e7), within=1e8) == pytest.approx(7e7)
    assert LAW.needed(LAW.error(7e7), within=6e7) is None
    assert LAW.needed(20.0, within=1e9) is LAW.needed(3.0, within=1e9) is None


def test_a_flat_law_needs_more_than_a_float_can_say():
    x = np.array([25.0, 50.0, 100.0, 200.0, 400.0])
    flat = fit_power_law(x, np.array([70.0, 69.9, 70.05, 69.95, 69.9]))
    good = fit_power_law(x, np.array([64.0, 60.0, 57.0, 55.0, 54.0]))
    assert flat.needed(good.error(400.0), within=4e3) is None


@pytest.mark.slow
def test_intervals_hold_the_truth_about_as_often_as_they_say():
    generator = np.random.default_rng(0)
    x, truth, held = np.repeat(X, 3), LAW.error(1e8), 0
    for trial in range(12):
        noisy = errors(LAW, x) * np.exp(0.02 * generator.normal(size=len(x)))
        laws = bootstrap(fit_power_law(x, noisy), x, noisy, draws=24, seed=trial)
        low, high = interval([law.error(1e8) for law in laws])
        assert low < high
        held += low <= truth <= high
    # If they hold it 95 times of 100, fewer than 9 of 12 happens once in 400 times.
    assert held >= 9


def test_noise_widens_the_interval_and_equal_seeds_give_it_again():
    generator = np.random.default_rng(1)
    noise = generator.normal(size=15)
    x = np.repeat(X, 3)

    def width(amount: float) -> float:
        noisy = errors(LAW, x) * np.exp(amount * noise)
        laws = bootstrap(fit_power_law(x, noisy), x, noisy, draws=40)
        low, high = interval([law.error(1e8) for law in laws])
        return high - low

    assert 5 * width(0.002) < width(0.02) == width(0.02)


@pytest.mark.parametrize(
    ("x", "error", "says"),
    [
        (X[:3], X[:3], "3 different x"),
        (np.repeat(X[:2], 5), np.ones(10), "2 different x"),
        (np.array([1.0, 1.1, 1.2, 1.3]), np.ones(4), "spans a factor of 1.3"),
        (
            X,
            np.array([1.0, 1.0, 0.0, 1.0, 1.0]),
            "error must be finite and above 0, got 0 in point 3",
        ),
        (X, np.array([1.0, np.nan, 1.0, 1.0, 1.0]), "got nan in point 2"),
    ],
)
def test_too_little_is_refused(x, error, says):
    with pytest.raises(ValueError, match=says):
        fit_power_law(x, error)


def test_what_lies_too_far_is_refused():
    check_reach(1e9, X, "plain")
    with pytest.raises(ValueError, match=r"plain: .* at most 10 times .* got 1.1e\+09"):
        check_reach(1.1e9, X, "plain")


def write_runs(path, laws, noise=0.0):
    generator = np.random.default_rng(2)
    lines = ["samples,top1,recipe"]
    for name, law in laws.items():
        for x in np.repeat(X, 2):
            error = law.error(x) * np.exp(noise * generator.normal())
            lines.append(f"{x:g},{100 - error},{name}")
    path.write_text("\n".join(lines))


def test_the_command_compares_recipes_at_equal_x(tmp_path, capsys):
    better = PowerLaw(floor=15.0, amount=20.0, exponent=0.35, unit=1e7)
    write_runs(tmp_path / "runs.csv", {"plain": LAW, "distilled": better}, noise=0.005)
    asked = ["fit-scaling", str(tmp_path / "runs.csv"), "--x", "samples", "--y", "top1"]
    options = ["--by", "recipe", "--draws", "30", "--at", "1e7", "1e8"]
    assert main([*asked, *options, "--json"]) == 0
    values = json.loads(capsys.readouterr().out)
    assert set(values["laws"]) == {"plain", "distilled"}
    assert values["laws"]["plain"]["runs"] == 10
    error, low, high = values["laws"]["plain"]["errors"]["1e+08"]
    assert low < error < high and error == pytest.approx(LAW.error(1e8), rel=0.02)
    first, last = values["compared"]
    assert (first["first"], first["second"], last["x"]) == ("distilled", "plain", 1e8)
    assert first["verdict"] == last["verdict"] == "distilled is better"
    assert first["difference"] == pytest.approx(better.error(1e7) - LAW.error(1e7), rel=0.1)
    needed = LAW.needed(better.error(1e7), within=1e9)
    assert needed and first["equal_x"] == pytest.approx(needed / 1e7, rel=0.3)
    # The better one ends below the other's floor, or so near that nobody has measured it.
    assert last["equal_x"] is None
    assert main([*asked, *options]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "plain needs" in printed
    assert "what plain needs for distilled's error is beyond what was measured" in printed


def test_an_equal_x_is_not_beyond_ten_times_what_was_measured(tmp_path):
    steep = PowerLaw(floor=1e-6, amount=40.0, exponent=0.2, unit=1e7)
    for share, reached in ((0.95, True), (0.6, False)):
        lower = PowerLaw(floor=1e-6, amount=40.0 * share, exponent=0.2, unit=1e7)
        write_runs(tmp_path / "runs.csv", {"plain": steep, "distilled": lower})
        runs = read_runs(tmp_path / "runs.csv", "samples", "top1", "recipe", "percent")
        (pair,) = compare(fit_recipes(runs, draws=20, seed=0), 1e8)
        # 1.3 and 12.9 times the largest x.
        assert (pair.equal_x is not None) == reached
        assert not reached or pair.equal_x == pytest.approx(share**-5, rel=0.05)


def test_a_table_that_excel_wrote(tmp_path):
    write_runs(tmp_path / "runs.csv", {"plain": LAW})
    plain = (tmp_path / "runs.csv").read_bytes()
    (tmp_path / "excel.csv").write_bytes(b"\xef\xbb\xbf" + plain.replace(b"\n", b"\r\n"))
    found = [
        read_runs(tmp_path / name, "samples", "top1", "recipe", "percent")["plain"]
        for name in ("runs.csv", "excel.csv")
    ]
    np.testing.assert_array_equal(*found)


def test_equal_recipes_are_noise(tmp_path, capsys):
    write_runs(tmp_path / "runs.csv", {"a": LAW, "b": LAW}, noise=0.01)
    asked = ["fit-scaling", str(tmp_path / "runs.csv"), "--x", "samples", "--y", "top1"]
    assert main([*asked, "--by", "recipe", "--draws", "30", "--json"]) == 0
    (compared,) = json.loads(capsys.readouterr().out)["compared"]
    assert compared["verdict"] == "no difference beyond noise"


@pytest.mark.parametrize(
    ("text", "options", "says"),
    [
        ("samples,top1\n", [], "holds no runs"),
        ("samples,score\n1,2\n", [], "no column 'top1'; it has: samples, score"),
        ("samples,top1\n1,much\n", [], "line 2: top1 is no number: 'much'"),
        ("samples,top1\n1,2\n", ["--y-is", "fraction"], "must be at least 0 and below 1, got 2"),
        ("samples,top1\n1,2\n2,3\n", [], "2 different x"),
        # Named by its place in the file, the blank line counted.
        ("samples,top1,who\n1,2,a\n\n2,3,\n", ["--by", "who"], "line 4: who is empty"),
        ("samples,top1,who\n1,2,a\n2,3\n", ["--by", "who"], "line 3: who is empty"),
        ("samples,score\n1,2,3\n", [], "no column 'top1'; it has: samples, score"),
        ("samples,top1\n1,2\n2,3\n", ["--at", "50"], "at most 10 times the largest"),
    ],
)
def test_input_of_fit_scaling_is_refused(tmp_path, capsys, text, options, says):
    (tmp_path / "runs.csv").write_text(text)
    asked = ["fit-scaling", str(tmp_path / "runs.csv"), "--x", "samples", "--y", "top1"]
    assert main([*asked, *options]) == 2
    assert says in " ".join(capsys.readouterr().err.split())
