"""The benchmark of step lengths: its table, and a short training of its own."""

import dataclasses

import numpy as np
import pytest

import mlhf
from benchmarks.step_length import __main__ as step_length
from benchmarks.step_length import ablation, learn
from benchmarks.step_length.tasks import TASKS, batches, held_aside
from replay import write_structure
from tests.docs.pages import ROOT

NAME = "regression, batch 32"


def test_the_table_takes_medians_and_the_best_rate():
    losses = {
        "measured": (3.0, 1.0, 2.0),
        "learned 12ab34cd": (1.5, 0.5, 1.0),
        "learned 00000000": (9.0, 9.0, 9.0),
        "0.01": (5.0, 4.0, 9.0),
        "0.1": (6.0, np.nan, 7.0),
    }
    records = [
        {"task": NAME, "rule": rule, "seed": seed, "loss": loss}
        for rule, values in losses.items()
        for seed, loss in enumerate(values)
    ]
    row = step_length.table(records, "learned 12ab34cd").splitlines()[-1]
    assert row == (
        f"| {NAME} | 2.0000 (1.0000/2.0000/3.0000) | 1.0000 (0.5000/1.0000/1.5000) "
        "| 5.0000 (0.01) | 0.01: 5.0000, 0.1: 6.5000 |"
    )
    row = step_length.table(records, "learned of another").splitlines()[-1]
    assert "| not run |" in row


@pytest.mark.slow
def test_a_training_is_the_seeds(monkeypatch):
    monkeypatch.setitem(TASKS, NAME, dataclasses.replace(TASKS[NAME], steps=30))
    made = {}
    a, b, other = (step_length.train(NAME, "measured", seed, "", made, None) for seed in (1, 1, 2))
    assert a["loss"] == b["loss"] != other["loss"]
    learned = f"learned {step_length.digest('neutral')}"
    neutral = step_length.train(NAME, learned, 1, "", made, "neutral")
    np.testing.assert_allclose(neutral["loss"], a["loss"], rtol=1e-2)
    # The targets have a variance of 1.
    assert max(a["loss"], other["loss"]) < 0.3


def test_the_ablation_tries_rates_until_the_best_is_no_edge(tmp_path, monkeypatch):
    learned, tried = f"learned {step_length.digest(None)}", []

    def train(task, rule, seed, data_dir, made, weights):
        assert (task, data_dir, weights) == (NAME, "data", None)
        tried.append((rule, seed))
        # The best rates are 0.004 for Adam, 0.0025 and 0.16 for Muon.
        kind, best = rule.split()[0], {"adam": 0.004, "constant": 0.0025}.get(rule.split()[0], 0.16)
        loss = 0.5 if kind in ("measured", "learned") else (float(rule.split()[-1]) / best - 1) ** 2
        return {"task": task, "rule": rule, "seed": seed, "loss": loss + seed}

    monkeypatch.setattr(ablation, "train", train)
    path = tmp_path / "runs.jsonl"
    row = ablation.table(ablation.Runs(path, "data"), [NAME]).splitlines()[-1]
    assert row == (f"| {NAME} | 2.062 ±1 (0.003) | 2 ±1 (0.0025) | 2 ±1 (0.16) | 2.5 ±1 | 2.5 ±1 |")
    assert {"constant 0.0013", "constant 0.02", "0.32", "0.01", learned} <= {r for r, _ in tried}
    assert len(tried) == len(set(tried)) == len(path.read_text().splitlines())
    tried.clear()
    assert ablation.table(ablation.Runs(path, "data"), [NAME]).splitlines()[-1] == row
    assert not tried


def test_batches_contain_none_of_the_examples_held_aside():
    task = TASKS[NAME]
    aside = {row.tobytes() for row in held_aside(task, "")[0]}
    for inputs, targets in list(batches(task, "", 1))[:20]:
        assert inputs.shape == (32, 10) and targets.shape == (32, 1)
        assert not aside & {row.tobytes() for row in inputs}


def test_learning_goes_on_from_its_folder_and_its_table_counts(tmp_path):
    strategy = learn.opened(tmp_path, ("lengths", "momentum"))
    strategy.follow(np.ones(strategy.deviations.size), 0.5)
    write_structure(tmp_path / learn.STATE, strategy.state())
    again = learn.opened(tmp_path, ("lengths", "momentum"))
    assert again.generation == 1
    np.testing.assert_array_equal(again.weights.lengths, strategy.weights.lengths)
    records = [{"generation": g, "by task": [-0.1, 0.1 * g]} for g in (1, 2, 3)]
    rows = learn.table(records, 2).splitlines()[2:]
    # Means of logarithms: (-0.1 + 0.15) / 2 and (-0.1 + 0.3) / 2.
    assert rows == ["| 1 to 2 | +2.5% | 1 of 2 |", "| 3 to 3 | +10.5% | 1 of 2 |"]


def test_learning_begins_with_a_file_and_averages_the_weights_of_updates(tmp_path):
    begin = mlhf.MetaMuon(1).save(tmp_path / "begin")
    strategy = learn.opened(tmp_path / "new", ("lengths",), begin)
    np.testing.assert_array_equal(strategy.weights.lengths, mlhf.MetaMuon(1).weights.lengths)
    weights = [strategy.weights._replace(momentum=np.full(10, k, "f")) for k in range(200)]
    average = strategy.weights
    for generation in (1, 2, 3):
        average = learn.averaged(average, weights[generation], generation)
    np.testing.assert_allclose(average.momentum, 2.0)
    for generation in range(4, 200):
        average = learn.averaged(average, weights[generation], generation)
    # Behind the newest by as many updates as it goes over.
    np.testing.assert_allclose(average.momentum, 199 - 59, atol=12)


def test_the_controller_that_ships_is_the_one_that_was_learned():
    folders = [ROOT / "docs/results/step_length" / name for name in ("learned", "learned_on")]
    first, second = (
        mlhf.MetaMuon(1, weights=folder / learn.CONTROLLER).weights for folder in folders
    )
    shipped = mlhf.MetaMuon(1).weights
    for ours, one, other in zip(shipped, first, second, strict=True):
        np.testing.assert_array_equal(ours, (one + other) / 2)
    assert np.abs(shipped.lengths).max() > 0.1
