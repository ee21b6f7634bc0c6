"""Where TensorFlow's gradients end without a word, and where they rightly do."""

import numpy as np
import pytest
import tensorflow as tf

import custom_op
from custom_op.graphs import gradient_pairs
from custom_op.graphs.gradient_paths import Paths

D = tf.float64
X = tf.constant([0.2, 0.4, 0.7], D)


def paths(function, *shapes, second=False):
    """Types of operation, by source, at which the derivatives of a function end."""
    found = {}

    def trace(*sources):
        targets = [function(*sources)]
        if second:
            targets = [g for g in tf.gradients(targets, sources) if g is not None]
        found["paths"] = Paths(sources, targets)
        return targets

    specs = [tf.TensorSpec(shape, D) for shape in shapes or ([3],)]
    tf.function(trace, autograph=False).get_concrete_function(*specs)
    return found["paths"]


def missing(function, *shapes, second=False):
    lost = paths(function, *shapes, second=second).missing
    return {(place.op.type, source) for place in lost for source in place.sources}


def loop(step):
    return lambda a, w: tf.while_loop(lambda i, _: i < 3, lambda i, x: (i + 1, step(x, a)), (0, w))[
        1
    ]


called = tf.function(lambda a: tf.math.zeta(a + 2, a + 1), autograph=False)

MISSING = {
    "Betainc": lambda a, w: w**2 - tf.math.betainc(a, 2 + 0 * a, X),
    "Zeta": lambda a, w: w * tf.math.zeta(a + 2, X),
    "Polygamma": lambda a, w: w * tf.math.polygamma(a, X),
    "PyFunc": lambda a, w: w * tf.numpy_function(np.sin, [a], D),
    "Range": lambda a, w: w * tf.reduce_sum(tf.range(a[0], 2.0, 0.3)),
    "OneHot": lambda a, w: w * tf.one_hot(1, 3, on_value=a[0], off_value=a[1]),
    "RandomShuffle": lambda a, w: w * tf.random.shuffle(a),
    "HSVToRGB": lambda a, w: w * tf.image.hsv_to_rgb(a),
}


def test_paths_without_a_gradient_are_found():
    for op_type, function in MISSING.items():
        assert missing(function, [3], [3]) == {(op_type, 0)}, op_type
        stopped = lambda a, w, f=function: w * a + f(tf.stop_gradient(a), w)  # noqa: E731
        assert not missing(stopped, [3], [3]), op_type


def test_paths_inside_loops_branches_and_calls():
    zeta = lambda x: tf.math.zeta(x + 2, x + 1)  # noqa: E731
    assert missing(loop(lambda x, a: tf.tanh(x) + zeta(a)), [3], [3]) == {("Zeta", 0)}
    # What the loop's variables are made of comes around.
    both = {("Zeta", 0), ("Zeta", 1)}
    assert missing(loop(lambda x, a: x * zeta(a * x)), [3], [3], second=True) == both
    branch = lambda a, w: tf.cond(w[0] > 0, lambda: zeta(a) * w, lambda: w)  # noqa: E731
    assert missing(branch, [3], [3]) == {("Zeta", 0)}
    assert missing(lambda a, w: called(a) * w, [3], [3]) == {("Zeta", 0)}
    assert not missing(lambda a, w: called(tf.stop_gradient(a)) * w + a, [3], [3])
    assert not missing(loop(lambda x, a: tf.tanh(x * a)), [3], [3], second=True)
    assert not missing(lambda a: tf.map_fn(tf.sin, a) ** 2, second=True)


def test_derivatives_that_are_rightly_zero_or_meant_to_be():
    @tf.custom_gradient
    def one_sided(a, w):
        return tf.math.zeta(a + 2, w + 1), lambda u: (None, u)

    rightly = lambda a, w: (  # noqa: E731
        w * (tf.round(a) + tf.sign(a) + tf.floor(a) + a // 0.3)
        + tf.gather(w, tf.argmax(a))
        + tf.cast(tf.cast(a, tf.int32), D)
        + tf.where(a > w, a, w)
        + tf.round(tf.math.zeta(a + 2, w))
        + one_sided(a, w)
        + tf.zeros_like(a)
    )
    assert not missing(rightly, [3], [3])
    usual = lambda a, w: tf.reduce_sum(  # noqa: E731
        tf.nn.relu(a * w)
        + tf.nn.elu(a)
        + tf.nn.gelu(w)
        + tf.nn.silu(a)
        + tf.abs(a)
        + tf.clip_by_value(a, 0.1, 0.5)
        + tf.sort(a)
        + tf.nn.softmax(a) * tf.reduce_logsumexp(w)
        + tf.nn.sparse_softmax_cross_entropy_with_logits(1, a)
        + tf.math.igamma(tf.stop_gradient(a), w)
    )
    assert not missing(usual, [3], [3], second=True)


def test_second_derivatives_that_gradients_leave_out():
    cross = lambda p, z: tf.reduce_sum(tf.nn.softmax_cross_entropy_with_logits(p, z))  # noqa: E731
    assert not missing(cross, [2, 3], [2, 3], second=True)  # a mended gradient
    scans = lambda a: tf.reduce_sum(tf.math.cumprod(a) * tf.math.cumulative_logsumexp(a))  # noqa: E731
    assert not missing(scans, second=True)
    fake = lambda a: tf.reduce_sum(  # noqa: E731
        tf.cast(tf.quantization.fake_quant_with_min_max_args(tf.cast(a, tf.float32)), D) ** 2
    )
    assert missing(fake, second=True) == {("FakeQuantWithMinMaxArgsGradient", 0)}
    assert missing(lambda a: tf.math.igamma(a, X), second=True) == {("IgammaGradA", 0)}

    def pooled(x, scale, shift):
        x, scale, shift = (tf.cast(value, tf.float32) for value in (x, scale, shift))
        y = tf.compat.v1.nn.fused_batch_norm(x, scale, shift)[0]
        return tf.reduce_sum(tf.nn.max_pool2d(y, 2, 2, "SAME") + tf.nn.avg_pool2d(y, 2, 2, "SAME"))

    assert not missing(pooled, [1, 4, 4, 2], [2], [2], second=True)


def test_decisions_by_random_numbers():
    uniform = lambda: tf.random.stateless_uniform([3], [1, 2], dtype=D)  # noqa: E731
    drawn = {
        "GreaterEqual": lambda a, w: tf.nn.experimental.stateless_dropout(w, a[0], [1, 2]),
        "Less": lambda a, w: tf.where(uniform() < a, w, 0),
        "Floor": lambda a, w: w * tf.floor(a + uniform()),
        "Multinomial": lambda a, w: tf.gather(w, tf.random.categorical(a[None], 1)[0, 0]),
        "StatelessRandomPoisson": lambda a, w: (
            w * tf.random.stateless_poisson([3], [1, 2], a, dtype=D)
        ),
    }
    for op_type, function in drawn.items():
        found = paths(function, [3], [3]).drawn
        assert [(place.op.type, *place.sources) for place in found] == [(op_type, 0)]
        stopped = lambda a, w, f=function: a + f(tf.stop_gradient(a), w)  # noqa: E731
        assert not paths(stopped, [3], [3]).drawn, op_type
    moved = lambda a, w: tf.nn.relu(w + a * uniform()) + tf.where(w + a > 0, w, a)  # noqa: E731
    assert not paths(moved, [3], [3], second=True).drawn
    pathwise = lambda a: tf.random.stateless_gamma([3], [1, 2], a, dtype=D)  # noqa: E731
    assert not paths(pathwise).drawn


def test_complete_gradients_are_complete():
    """No operation on the short list needs a trial: the trial agrees."""
    found = {}

    def trace(a, b):
        table = {
            "Pow": tf.pow(a, b).op,
            "SelectV2": tf.where(a > b, a, b).op,
            "Maximum": tf.maximum(a, b).op,
            "ConcatV2": tf.concat([a, b], 0).op,
            "Unpack": tf.unstack(a)[0].op,
            "SplitV": tf.split(a, [1, 2])[0].op,
            "SquaredDifference": tf.math.squared_difference(a, b).op,
            "StridedSliceGrad": tf.gradients(a[1:2], a)[0].op,
            "Einsum": tf.einsum("i,j->ij", a, b).op,
        }
        for op_type, op in table.items():
            assert op.type == op_type and op_type in gradient_pairs._COMPLETE
            inputs = [i for i, value in enumerate(op.inputs) if value.dtype == D]
            outputs = range(len(op.outputs))
            found[op_type] = set(gradient_pairs._tried(op, inputs, outputs).values())
        return a

    spec = tf.TensorSpec([3], D)
    tf.function(trace, autograph=False).get_concrete_function(spec, spec)
    assert len(found) == 9 and all(
        pairs == {gradient_pairs.Pair.PASSES} for pairs in found.values()
    )


def test_a_checkpoint_refuses_what_its_gradient_would_leave_out():
    a = tf.constant([0.5, 0.6, 0.7], D)
    block = custom_op.checkpoint(lambda a: a**2 + tf.math.betainc(a, 2 + 0 * a, X))
    np.testing.assert_allclose(block(a), a**2 + tf.math.betainc(a, 2 + 0 * a, X))
    for wrap in (lambda f: f, tf.function(autograph=False)):

        @wrap
        def gradient():
            with tf.GradientTape() as tape:
                tape.watch(a)
                value = block(a)
            return tape.gradient(value, a)

        with pytest.raises(custom_op.NotDifferentiableError, match="Betainc.*arguments.*'a'"):
            gradient()
