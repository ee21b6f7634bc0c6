import numpy as np
import pytest


def _assert_same(got, expected, place="structure"):
    if isinstance(expected, dict):
        assert isinstance(got, dict) and list(got) == list(expected), place
        for key in expected:
            _assert_same(got[key], expected[key], f"{place}[{key!r}]")
    elif isinstance(expected, list | tuple):
        kind = tuple if isinstance(expected, tuple) else list
        assert type(got) is kind and len(got) == len(expected), place
        for number, child in enumerate(expected):
            _assert_same(got[number], child, f"{place}[{number}]")
    elif isinstance(expected, np.ndarray | np.generic):
        assert isinstance(got, np.ndarray), place
        assert (got.dtype, got.shape) == (expected.dtype, expected.shape), place
        assert got.tobytes() == expected.tobytes(), place
    else:
        assert type(got) is type(expected), place
        assert got == expected or (got != got and expected != expected), place


@pytest.fixture(scope="session")
def assert_same():
    """assert_same(got, expected): equal bit for bit, dtypes, shapes and containers included."""
    return _assert_same


@pytest.fixture(scope="session")
def snapshot_of():
    """snapshot_of(number): a small structure of arrays that belongs to this number alone."""

    def build(number):
        generator = np.random.default_rng(number)
        return {
            "number": np.array(number, dtype=np.int64),
            "weights": [generator.standard_normal((3, 2)).astype(np.float32), np.zeros((0, 4))],
            "moments": (generator.standard_normal(5),),
        }

    return build
