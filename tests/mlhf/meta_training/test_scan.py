"""The loop over time, as a loop and written out, in either direction."""

from typing import Any, NamedTuple

import numpy as np
import pytest
import tensorflow as tf

from mlhf.meta_training.scan import scan


class Row(NamedTuple):
    before: Any
    after: Any


def accumulate(unrolled, reverse):
    """x becomes 10 x + t; structures as carry and as row."""

    def body(t, carry):
        (x,) = carry["x"]
        new = 10 * x + tf.cast(t, tf.float64)
        return {"x": (new,)}, Row({"x": x}, tf.stack([new, -new]))

    specs = Row({"x": tf.TensorSpec([], tf.float64)}, tf.TensorSpec([2], tf.float64))
    start = {"x": (tf.constant(7.0, tf.float64),)}
    carry, rows = scan(body, start, 3, specs, unrolled=unrolled, reverse=reverse)
    second = rows.read(1 if unrolled else tf.constant(1))
    return carry["x"][0], rows.column("after"), second, rows.read(2)


@pytest.mark.parametrize("unrolled", [False, True], ids=["loop", "unrolled"])
@pytest.mark.parametrize("graph", [False, True], ids=["eager", "graph"])
@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
def test_carry_and_rows(unrolled, graph, reverse):
    function = tf.function(accumulate, autograph=False) if graph else accumulate
    last, after, second, third = function(unrolled, reverse)
    # Rows stand in the order of t, whichever way time runs.
    values = [7210, 721, 72] if reverse else [70, 701, 7012]
    before = [721, 72, 7] if reverse else [7, 70, 701]
    assert float(last) == values[0 if reverse else 2]
    np.testing.assert_array_equal(after, [[value, -value] for value in values])
    assert float(second.before["x"]) == before[1]
    assert float(third.before["x"]) == before[2]


@pytest.mark.parametrize("unrolled", [False, True], ids=["loop", "unrolled"])
def test_nothing_kept(unrolled):
    total, _ = scan(lambda t, x: (x + 1, ()), tf.constant(0), 4, unrolled=unrolled)
    assert int(total) == 4


def test_a_loop_traces_its_body_once():
    traced = []

    @tf.function(autograph=False)
    def run(unrolled):
        def body(t, x):
            traced.append(t)
            return x + 1, ()

        return scan(body, tf.constant(0), 5, unrolled=unrolled)[0]

    assert int(run(False)) == 5
    assert len(traced) == 1
    assert int(run(True)) == 5
    assert len(traced) == 6
