"""The information buffer against big integers, forwards and back, bit for bit."""

import math

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies

from mlhf.hypergrad.exact_arithmetic import fixed_point, information_buffer
from mlhf.hypergrad.exact_arithmetic.information_buffer import DENOMINATOR, InformationBuffer

SIZE = 7


def velocities(seed=0, size=SIZE):
    return fixed_point.to_fixed(np.random.default_rng(seed).normal(size=size))


def big_integer_multiply(value, store, n, d):
    """Maclaurin et al. 2015, one Python integer a number."""
    store = store * d + value % d
    value = (value // d) * n + store % n
    return value, store // n


@hypothesis.settings(deadline=None, max_examples=100)
@hypothesis.given(
    strategies.lists(
        strategies.floats(0, 2, exclude_min=True, exclude_max=True), min_size=1, max_size=40
    ),
    strategies.integers(0, 2**32),
)
def test_any_sequence_of_decays_is_undone(decays, seed):
    random = np.random.default_rng(seed)
    start = random.integers(-(2**50), 2**50, SIZE)
    values, buffer = start, InformationBuffer(SIZE)
    passed = []
    for decay in decays:
        n = int(information_buffer.numerator(decay))
        values = buffer.multiply(values, n)
        # What training does in between: keeps them in range.
        move = -values + random.integers(-(2**50), 2**50, SIZE)
        values = values + move
        passed.append((n, move))
    for n, move in reversed(passed):
        values = buffer.undo_multiply(values - move, n)
    np.testing.assert_array_equal(values, start, strict=True)
    assert buffer.empty


def test_two_hundred_decays_forwards_and_back():
    start = velocities(size=50)
    values, buffer = start, InformationBuffer(50)
    decays = [int(information_buffer.numerator(a)) for a in np.linspace(0.005, 1.995, 200)]
    moves = []
    for n in decays:
        values = buffer.multiply(values, n)
        moves.append(-(values // 2))
        values = values + moves[-1]
    assert buffer.tape, "the run was too short to reach the tape"
    for n, move in zip(reversed(decays), reversed(moves), strict=True):
        values = buffer.undo_multiply(values - move, n)
    np.testing.assert_array_equal(values, start, strict=True)
    assert buffer.empty


@hypothesis.settings(deadline=None, max_examples=50)
@hypothesis.given(strategies.integers(0, 2**32))
def test_pushes_and_pops_in_any_order_are_undone(seed):
    random = np.random.default_rng(seed)
    buffer = InformationBuffer(SIZE)
    stores = [0] * SIZE
    done, spilled = [], False
    for _ in range(200):
        base = int(random.integers(1, 2**16 + 1))
        if random.random() < 0.25:
            digits = buffer.pop(base)
            done.append(("pop", digits, base))
            right = [store % base for store in stores]
            stores = [store // base for store in stores]
        else:
            digits = random.integers(0, base, SIZE)
            buffer.push(digits, base)
            done.append(("push", digits, base))
            stores = [
                store * base + int(digit) for store, digit in zip(stores, digits, strict=True)
            ]
            right = digits
        spilled = spilled or bool(buffer.tape)
        if not spilled:
            # Up to the first move to the tape the heads are the big integers themselves.
            np.testing.assert_array_equal(digits, right)
            assert [int(head) for head in buffer.head] == stores
    assert spilled
    for kind, digits, base in reversed(done):
        if kind == "push":
            np.testing.assert_array_equal(buffer.undo_push(base), digits)
        else:
            buffer.undo_pop(digits, base)
    assert buffer.empty


def test_is_the_big_integers_until_the_first_spill():
    n = int(information_buffer.numerator(0.9))
    values, buffer = velocities(), InformationBuffer(SIZE)
    right, stores = [int(v) for v in values], [0] * SIZE
    for _ in range(200):
        values = buffer.multiply(values, n)
        pairs = [
            big_integer_multiply(v, s, n, DENOMINATOR) for v, s in zip(right, stores, strict=True)
        ]
        right, stores = [v for v, _ in pairs], [s for _, s in pairs]
        np.testing.assert_array_equal(values, right)
        assert [int(head) for head in buffer.head] == stores
    assert buffer.bits > 25 and not buffer.tape


@pytest.mark.parametrize("decay", [0.5, 0.9, 0.95, 0.98, 0.99])
def test_grows_by_the_information_that_is_lost(decay):
    n = int(information_buffer.numerator(decay))
    random = np.random.default_rng(0)
    values, buffer = velocities(size=200), InformationBuffer(200)
    bits = {}
    for step in range(1, 3001):
        values = buffer.multiply(values, n)
        values = values + random.integers(-(2**45), 2**45, 200)
        bits[step] = buffer.bits if step % 1000 == 0 else None
    expected = math.log2(DENOMINATOR / n)
    print(
        bits[1000] / 1000 / expected,
        bits[3000] / 3000 / expected,
        (bits[3000] - bits[1000]) / 2000 / expected,
    )
    # The first digits are mostly zeros: a decay of 0.99 takes a hundred steps to lose a bit.
    assert (bits[3000] - bits[1000]) / 2000 == pytest.approx(expected, rel=0.01)
    # And so does the memory, up to the half-full heads.
    assert buffer.nbytes < 200 * (8 + 1.01 * expected * 3000 / 8) + 16 * len(buffer.tape)


def test_memory_of_two_thousand_steps_is_under_a_hundredth_of_stored_states():
    size, steps = 1000, 2000
    buffer, values = InformationBuffer(size), velocities(size=size)
    n = int(information_buffer.numerator(0.98))
    for _ in range(steps):
        values = buffer.multiply(values, n) + 2**40
    assert buffer.nbytes < 0.01 * (4 * size * steps)


def test_a_decay_of_one_changes_nothing():
    values, buffer = velocities(), InformationBuffer(SIZE)
    for _ in range(3):
        buffer.multiply(values, 40_000)
    before = buffer.head.copy()
    for _ in range(100):
        np.testing.assert_array_equal(buffer.multiply(values, DENOMINATOR), values)
    np.testing.assert_array_equal(buffer.head, before)


def test_multiplies_by_the_quantised_decay():
    values = velocities()
    for decay in (0.3, 0.9, 1.7):
        got = InformationBuffer(SIZE).multiply(values, int(information_buffer.numerator(decay)))
        exact = values * information_buffer.quantize_decay(decay)
        assert np.abs(got - exact).max() < 2 * DENOMINATOR + 2.0**10


def test_a_decay_above_one_takes_bits_back_from_the_tape():
    shrink, grow = (int(information_buffer.numerator(a)) for a in (0.5, 1.9))
    start = velocities()
    values, buffer, done = start, InformationBuffer(SIZE), []
    for n in [shrink] * 200 + [grow] * 200:
        values = buffer.multiply(values, n)
        move = 2**40 if n == shrink else -(values // 2)
        values = values + move
        done.append((n, move))
        if len(done) == 200:
            rows = len(buffer.tape)
    assert rows >= 5 and len(buffer.tape) < rows - 3
    for n, move in reversed(done):
        values = buffer.undo_multiply(values - move, n)
    np.testing.assert_array_equal(values, start)
    assert buffer.empty


def test_decays_of_their_own_for_every_number():
    decays = np.linspace(0.1, 1.0, SIZE)
    n = information_buffer.numerator(decays)
    start = velocities()
    values, buffer = start, InformationBuffer(SIZE)
    for _ in range(300):
        values = buffer.multiply(values, n) + 2**40
    assert buffer.tape
    for _ in range(300):
        values = buffer.undo_multiply(values - 2**40, n)
    np.testing.assert_array_equal(values, start)
    assert buffer.empty


def test_quantised_decays():
    asked = np.array([0.5, 0.9, 0.98, 0.999, 1.0, 1 - 2.0**-16, 1.5])
    got = information_buffer.quantize_decay(asked)
    np.testing.assert_allclose(got, asked, rtol=0, atol=2.0**-17)
    assert got[0] == 0.5 and got[4] == 1.0 and got[5] < 1 and got[6] == 1.5
    assert information_buffer.quantize_decay(1e-9) == 2.0**-16


@pytest.mark.parametrize("decay", [0.0, -0.5, 2.0, np.nan, np.inf])
def test_refuses_decays_that_cannot_be_undone(decay):
    with pytest.raises(ValueError, match="above 0 and under 2.*choose a small one"):
        information_buffer.numerator(np.array([0.9, decay]))


def test_refuses_what_it_cannot_do():
    buffer = InformationBuffer(2)
    with pytest.raises(ValueError, match="all have been undone"):
        buffer.undo_multiply(np.zeros(2, np.int64), 5)
    with pytest.raises(ValueError, match="bases from 1 to 131072, got 0 to 7"):
        buffer.multiply(np.zeros(2, np.int64), np.array([0, 7]))
    with pytest.raises(ValueError, match="under the base 3"):
        buffer.push(np.array([3, 0]), 3)
    large = fixed_point.to_fixed(np.array([1500.0, 0]))
    with pytest.raises(fixed_point.FixedPointRangeError, match="multiplied by 1.5"):
        buffer.multiply(large, int(information_buffer.numerator(1.5)))
    assert buffer.empty
