"""The bytes that a distributed step sends: the counter, the formula, and both beside each other."""

import json
import socket
import sys
import threading

import pytest

from benchmarks.distribution import __main__ as command
from benchmarks.distribution.sockets import bytes_sent
from tests.docs.pages import ROOT

linux = pytest.mark.skipif(sys.platform != "linux", reason="the counter is Linux's")


@linux
def test_the_counter_counts_what_is_sent():
    with socket.create_server(("localhost", 0)) as server:
        with socket.create_connection(server.getsockname()) as client:
            other, _ = server.accept()

            def read():
                left = 1_000_000
                while left:
                    left -= len(other.recv(1 << 16))

            reader = threading.Thread(target=read)
            before = bytes_sent()
            reader.start()
            client.sendall(bytes(1_000_000))
            reader.join()
            # What was read last may not be acknowledged yet.
            assert 900_000 < bytes_sent() - before <= 1_000_000
            other.close()


def test_the_formula_is_that_of_a_ring():
    steps = [{"bytes": 3000, "products": 2, "seconds": 0.1}]
    one = {"optimizer": "kfac", "workers": 3, "parameters": 100, "factors": 50, "steps": steps}
    row = command.row([one] * 3)
    # Each process sends 2 (W - 1)/W times a gradient, two products and the factors, of 4 bytes.
    assert row["formula"] == round(2 * 2 / 3 * 4 * (100 * 3 + 50))
    assert row["ratio"] == pytest.approx(3000 / row["formula"], abs=1e-3)


def test_the_measured_bytes_are_those_of_the_formula():
    path = ROOT / "docs" / "results" / "distribution" / "bytes.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert {(row["optimizer"], row["workers"]) for row in rows} == {
        (name, workers) for name in command.OPTIMIZERS for workers in (2, 3)
    }
    for row in rows:
        assert row["bytes"] == pytest.approx(row["formula"], rel=0.05), row


@linux
@pytest.mark.slow
def test_a_step_sends_the_bytes_of_the_formula():
    row = command.row(command.measure("hessian_free", 2))
    assert row["bytes"] == pytest.approx(row["formula"], rel=0.05)
    assert row["products"] == 5
