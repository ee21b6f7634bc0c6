"""What the loops of training and of comparisons ask of an optimizer."""

import keras
import pytest
import tensorflow as tf

import mlhf
from mlhf.optimizers.protocol import Optimizer, complete
from tests.contract import start

MAKERS = {
    "hf": mlhf.HessianFree,
    "martens": mlhf.MartensHessianFree,
    "kfac": mlhf.KFAC,
    "curvature muon": lambda: mlhf.CurvatureMuon(10),
    "meta muon": lambda: mlhf.MetaMuon(10),
    "meta": mlhf.MetaHessianFree,
    "muon": mlhf.Muon,
    "soap": mlhf.SOAP,
    "prodigy": mlhf.Prodigy,
    "schedule-free": mlhf.ScheduleFreeAdamW,
    "amuse": mlhf.AMUSE,
    "sgd": lambda: mlhf.FirstOrder(keras.optimizers.SGD(0.1)),
}


@pytest.mark.parametrize("name", MAKERS)
def test_every_optimizer_keeps_to_the_protocol(name):
    optimizer, parameters = MAKERS[name](), start(tf.float32)
    assert isinstance(optimizer, Optimizer) and complete(optimizer) is optimizer
    state = optimizer.init(parameters)
    saved = optimizer.to_saved(state, parameters)
    back = optimizer.from_saved(saved, state, parameters, finite=True)
    tf.nest.assert_same_structure(back, state)
    assert all(
        tf.nest.flatten(
            tf.nest.map_structure(lambda a, b: bool(tf.reduce_all(a == b)), back, state)
        )
    )
    assert len(tf.nest.flatten(optimizer.finite_part(state))) <= len(tf.nest.flatten(state))
    assert type(optimizer.without_xla()) is type(optimizer)
    # Before the first step there is nothing to average.
    for leaf in tf.nest.flatten(optimizer.evaluation_parameters(parameters, state)):
        assert float(tf.norm(leaf)) == 0


class Descent:
    """Has what it needs and no more."""

    def init(self, parameters):
        return ()

    def step(self, objective, parameters, state):
        return mlhf.Step(parameters, state, None, {"loss": tf.constant(0.0)})


def test_an_optimizer_of_the_users_gets_the_rest():
    optimizer = complete(Descent())
    assert not isinstance(Descent(), Optimizer) and isinstance(optimizer, Optimizer)
    assert optimizer.init_for(None, start(tf.float32)) == () == optimizer.finite_part(())
    assert optimizer.from_saved(optimizer.to_saved((), None), (), None) == ()
    assert optimizer.without_xla().step(None, 1, ()).parameters == 1
    assert optimizer.evaluation_parameters(2, ()) == 2
    averaging = Descent()
    averaging.evaluation_parameters = lambda parameters, state: parameters + 1
    assert complete(averaging).evaluation_parameters(2, ()) == 3
