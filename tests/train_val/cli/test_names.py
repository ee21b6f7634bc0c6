"""The names that flags take are those of what they name."""

from mlhf import pretrained_names
from mlhf.hypergrad.methods import METHODS
from mlhf.hypergrad.methods.reverse import STORAGES
from mlhf.hypergrad.outer.sharing import SHARINGS
from mlhf.meta_optimizer import rule
from mlhf.optimizers import schedule
from train_val import data
from train_val import tune_hyperparameters as tuning
from train_val.cli import names
from train_val.cli.flags import experiment_flags
from train_val.experiments import all_methods, learned_schedules
from train_val.problems import hyperparameters
from train_val.training import loop, processes


def test_names_are_those_of_what_they_name():
    assert (data.NAMES, data.SPLITS) == (names.DATA, names.SPLITS)
    assert loop.STATISTICS == names.STATISTICS
    assert processes.STRATEGIES == names.STRATEGIES
    assert schedule.KINDS == names.SCHEDULES
    assert names.INPUTS == rule.INPUTS
    assert names.pretrained() == pretrained_names()
    assert hyperparameters.DATA == names.TUNED_DATA
    assert hyperparameters.DYNAMICS == names.DYNAMICS
    assert tuple(METHODS) == names.METHODS
    assert sorted(tuning.SOLVERS) == list(names.SOLVERS)
    assert (STORAGES, SHARINGS) == (names.STORAGES, names.SHARINGS)
    assert sorted(tuning.OUTER_OPTIMIZERS) == list(names.OUTER_OPTIMIZERS)
    assert tuple(all_methods.NETWORKS) == experiment_flags.NETWORKS
    assert tuple(learned_schedules.OUTER_ADAMS) == experiment_flags.OUTER_ADAMS
