"""Regression on tables: standard columns, rows set aside, sentences where data is missing."""

import sys

import numpy as np
import pytest

import mlhf
from train_val import task_families
from train_val.data.image_data import DataError
from train_val.task_families import tables


@pytest.mark.parametrize("table, rows, columns", [("friedman", 200, 10), ("diabetes", 442, 10)])
def test_columns_are_standard_and_every_fifth_row_tests(table, rows, columns):
    task = tables.tabular(table, 8, 1, examples=200)
    inputs, targets = task.train
    assert inputs.shape == (rows - rows // 5, columns) and task.test[0].shape == (
        rows // 5,
        columns,
    )
    for values in (inputs, targets):
        np.testing.assert_allclose(values.mean(0), 0, atol=1e-12)
        np.testing.assert_allclose(values.std(0), 1, rtol=1e-12)


def test_it_is_measured_by_the_variance_that_is_left():
    problem = task_families.make("tabular:width=8:depth=1:examples=250:batch_size=200")
    start = problem.task.initialize(0)
    batch = mlhf.Objective(problem.model, problem.task.loss, *next(iter(problem.task.batches(0))))
    found = mlhf.minimize(batch, start, "lm", steps=25, progress=False)
    inputs, targets = problem.test.taken(range(50))
    for variable in problem.model.trainable_variables:
        variable.assign(found.parameters[variable.path])
    left = np.mean((problem.model(inputs).numpy() - targets.numpy()) ** 2)
    assert problem.accuracy(found.parameters) == pytest.approx(left, rel=1e-5)
    assert left < 0.3 and problem.measured == "test share of the variance that is left"


def test_what_is_missing_is_said_in_a_sentence(monkeypatch):
    with pytest.raises(ValueError, match="table to be one of .*, got 'boston'"):
        tables.tabular("boston")

    def offline(examples, noise):
        raise ConnectionError("no route to host")

    monkeypatch.setitem(tables._TABLES, "california", offline)
    with pytest.raises(DataError, match="downloads california, got no route to host: take"):
        tables.tabular("california")
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(DataError, match="pip install scikit-learn"):
        tables.tabular("friedman")
