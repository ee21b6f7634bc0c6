"""Writes fixtures/reference_steps.json: steps of optax's and the authors' own implementations.

In an environment of its own:

    pip install "jax[cpu]" optax torch schedulefree prodigyopt
    git clone https://github.com/nikhilvyas/SOAP
    PYTHONPATH=. python tests/mlhf/optimizers/gradient_methods/write_reference_steps.py SOAP/soap.py

All of them compute in double precision.
"""

import importlib.metadata
import importlib.util
import json
import sys
from pathlib import Path

import jax
import numpy as np
import optax
import prodigyopt
import schedulefree
import torch

from tests.mlhf.optimizers.gradient_methods import linear_problem as problem

PATH = Path(__file__).parent / "fixtures" / "reference_steps.json"
jax.config.update("jax_enable_x64", True)
torch.set_default_dtype(torch.float64)


def by_optax(optimizer, evaluated=None):
    """Returns the parameters, or what is evaluated, after each step of an optax optimizer."""
    parameters = {path: jax.numpy.asarray(w) for path, w in problem.start().items()}
    state, found = optimizer.init(parameters), []
    for number in range(problem.STEPS):
        plain = {path: np.asarray(w) for path, w in parameters.items()}
        updates, state = optimizer.update(problem.gradient(plain, number), state, parameters)
        parameters = optax.apply_updates(parameters, updates)
        shown = parameters if evaluated is None else evaluated(state, parameters)
        found.append({path: np.asarray(w).tolist() for path, w in shown.items()})
    return found


def by_torch(make, averages=False):
    """Returns the parameters, or their averages, after each step of a PyTorch optimizer."""
    parameters = {p: torch.nn.Parameter(torch.tensor(w)) for p, w in problem.start().items()}
    optimizer, found = make(list(parameters.values())), []
    for number in range(problem.STEPS):
        if averages:
            optimizer.train()
        plain = {path: w.detach().numpy() for path, w in parameters.items()}
        gradient = problem.gradient(plain, number)
        for path, w in parameters.items():
            w.grad = torch.tensor(gradient[path])
        optimizer.step()
        if averages:
            optimizer.eval()
        found.append({path: w.detach().numpy().tolist() for path, w in parameters.items()})
    return found


def soap_class(path):
    """Returns the authors' class, kept from rounding to single precision inside."""
    spec = importlib.util.spec_from_file_location("soap", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    torch.Tensor.float = torch.Tensor.double
    return module.SOAP


def main(soap):
    """Runs all, and writes the file."""
    numbers = optax.contrib.MuonDimensionNumbers
    matrices = {
        "conv/kernel": numbers((0, 1, 2), (3,)),
        "dense/bias": None,
        "dense/kernel": numbers(0, 1),
    }

    def muon(**options):
        return optax.contrib.muon(
            0.05,
            beta=0.9,
            nesterov=False,
            weight_decay=0.1,
            adam_weight_decay=0.1,
            muon_weight_dimension_numbers=matrices,
            **options,
        )

    steps = {
        "muon rms": by_optax(muon(consistent_rms=0.2)),
        "muon width": by_optax(muon()),
        "prodigy": by_torch(
            lambda w: prodigyopt.Prodigy(w, d0=1e-3, weight_decay=0.1, betas=(0.9, 0.99))
        ),
        "prodigy safeguarded": by_torch(
            lambda w: prodigyopt.Prodigy(w, d0=1e-3, safeguard_warmup=True)
        ),
        "prodigy with bias correction": by_optax(
            optax.contrib.prodigy(1.0, estim_lr0=1e-3, weight_decay=0.1)
        ),
        "schedule-free": by_torch(
            lambda w: schedulefree.AdamWScheduleFree(
                w, lr=0.1, weight_decay=0.1, warmup_steps=4, betas=(0.8, 0.99)
            ),
            averages=True,
        ),
        "schedule-free of optax": by_optax(
            optax.contrib.schedule_free_adamw(0.1, b1=0.9, b2=0.99),
            optax.contrib.schedule_free_eval_params,
        ),
        "soap": by_torch(
            lambda w: soap_class(soap)(w, lr=0.05, weight_decay=0.1, precondition_frequency=3)
        ),
    }
    packages = ("optax", "torch", "schedulefree", "prodigyopt")
    versions = {name: importlib.metadata.version(name) for name in packages}
    PATH.parent.mkdir(exist_ok=True)
    PATH.write_text(json.dumps({"versions": versions, "steps": _rounded(steps)}) + "\n")


def _rounded(value):
    if isinstance(value, dict):
        return {name: _rounded(part) for name, part in value.items()}
    if isinstance(value, list):
        return [_rounded(part) for part in value]
    return float(f"{value:.10g}")


if __name__ == "__main__":
    main(sys.argv[1])
