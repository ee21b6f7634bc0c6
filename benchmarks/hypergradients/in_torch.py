"""PyTorch's libraries on the workload: higher, betty, torchopt, hypertorch, and autograd alone."""

from __future__ import annotations

import importlib.metadata
import sys
from collections.abc import Callable, Iterator, Sequence

import torch
from torch.nn import functional

from benchmarks.hypergradients import workload as shared

VERSION = f"PyTorch {torch.__version__}"
LIBRARIES = {"higher": "higher", "torchopt": "torchopt", "betty": "betty-ml"}


def set_threads(threads: int) -> None:
    """Limits the threads that an operation uses."""
    torch.set_num_threads(threads)


def versions() -> dict[str, str]:
    """Returns the versions of the libraries that are installed."""
    found = {}
    for name, package in LIBRARIES.items():
        try:
            found[name] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


class Methods:
    """The libraries on one workload, each a function of no arguments to a hypergradient."""

    def __init__(self, workload: shared.Workload) -> None:
        """Makes the tensors.

        Args:
          workload: The training, with two columns.
        """
        inputs, labels = (torch.tensor(array) for array in workload.data())
        self._train = inputs[: shared.EXAMPLES], labels[: shared.EXAMPLES].long()
        self._valid = inputs[shared.EXAMPLES :], labels[shared.EXAMPLES :].long()
        self._first = [torch.tensor(leaf) for leaf in workload.weights()]
        self._batches = torch.tensor(workload.batches()).long()
        self._sizes, self._dtype = workload.sizes, inputs.dtype

    def _weights(self) -> list[torch.Tensor]:
        return [leaf.clone().requires_grad_() for leaf in self._first]

    def _hyper(self) -> list[torch.Tensor]:
        return [
            torch.tensor(value, dtype=self._dtype, requires_grad=True)
            for value in (shared.LEARNING_RATE, shared.LOG_L2)
        ]

    def _train_loss(
        self, weights: Sequence[torch.Tensor], log_l2: torch.Tensor, chosen: torch.Tensor
    ) -> torch.Tensor:
        loss = functional.cross_entropy(
            _network(weights, self._train[0][chosen]), self._train[1][chosen]
        )
        return loss + torch.exp(log_l2) * (weights[0] ** 2).sum()

    def _valid_loss(self, weights: Sequence[torch.Tensor]) -> torch.Tensor:
        return functional.cross_entropy(_network(weights, self._valid[0]), self._valid[1])

    def train(self) -> None:
        """Trains without differentiating."""
        weights, log_l2 = self._weights(), torch.tensor(shared.LOG_L2, dtype=self._dtype)
        optimizer = torch.optim.SGD(weights, lr=shared.LEARNING_RATE, momentum=shared.MOMENTUM)
        for chosen in self._batches:
            optimizer.zero_grad()
            self._train_loss(weights, log_l2, chosen).backward()
            optimizer.step()

    def methods(self) -> dict[str, Callable[[], list[float]]]:
        """Returns the libraries by name."""
        return {
            "autograd": self.autograd,
            "higher": self.higher,
            "torchopt": self.torchopt,
            "betty": self.betty,
            "hypertorch": self.hypertorch,
        }

    def autograd(self) -> list[float]:
        """Writes the training out by hand, with one backward pass."""
        weights, (rate, log_l2) = self._weights(), self._hyper()
        velocity = [torch.zeros_like(leaf) for leaf in weights]
        for chosen in self._batches:
            loss = self._train_loss(weights, log_l2, chosen)
            gradient = torch.autograd.grad(loss, weights, create_graph=True)
            velocity = [shared.MOMENTUM * v + g for v, g in zip(velocity, gradient, strict=True)]
            weights = [w - rate * v for w, v in zip(weights, velocity, strict=True)]
        return _floats(torch.autograd.grad(self._valid_loss(weights), [rate, log_l2]))

    def higher(self) -> list[float]:
        """`innerloop_ctx` over a module."""
        import higher

        model, (rate, log_l2) = _Module(self._weights()), self._hyper()
        optimizer = torch.optim.SGD(
            model.parameters(), lr=shared.LEARNING_RATE, momentum=shared.MOMENTUM
        )
        with higher.innerloop_ctx(model, optimizer, override={"lr": [rate]}) as (net, steps):
            for chosen in self._batches:
                loss = functional.cross_entropy(net(self._train[0][chosen]), self._train[1][chosen])
                first = next(iter(net.parameters()))
                steps.step(loss + torch.exp(log_l2) * (first**2).sum())
            valid = functional.cross_entropy(net(self._valid[0]), self._valid[1])
            return _floats(torch.autograd.grad(valid, [rate, log_l2]))

    def torchopt(self) -> list[float]:
        """`FuncOptimizer` with the learning rate as a tensor."""
        import torchopt

        weights, (rate, log_l2) = tuple(self._weights()), self._hyper()
        optimizer = torchopt.FuncOptimizer(torchopt.sgd(lr=rate, momentum=shared.MOMENTUM))
        for chosen in self._batches:
            weights = optimizer.step(self._train_loss(weights, log_l2, chosen), weights)
        return _floats(torch.autograd.grad(self._valid_loss(weights), [rate, log_l2]))

    def hypertorch(self) -> list[float]:
        """`reverse` over the stored history, with one map per step."""
        import hypergrad

        if not hasattr(hypergrad, "reverse"):
            raise ImportError("the package hypergrad that is installed is not hypertorch's")
        rate, log_l2 = self._hyper()
        maps = [
            hypergrad.Momentum(
                lambda weights, hyper, data: self._train_loss(weights, hyper[1], data[0]),
                lambda hyper: hyper[0],
                shared.MOMENTUM,
                (chosen,),
            )
            for chosen in self._batches
        ]
        states = [maps[0].get_opt_params(self._weights())]
        for step in maps:
            after = step(states[-1], [rate, log_l2], create_graph=False)
            states.append([leaf.detach().requires_grad_() for leaf in after])
        count = len(self._first)
        found = hypergrad.reverse(
            states,
            [rate, log_l2],
            maps,
            lambda state, hyper: self._valid_loss(state[:count]),
            set_grad=False,
        )
        return _floats(found)

    def betty(self) -> list[float]:
        """An `IterativeProblem` that is unrolled for T steps, and an outer problem."""
        # Its logger loads TensorFlow if that is installed; the process would crash with two copies
        # of LLVM.
        sys.modules.setdefault("tensorflow", None)  # type: ignore[arg-type]
        from betty.configs import Config, EngineConfig
        from betty.engine import Engine
        from betty.problems import ImplicitProblem, IterativeProblem

        owner, found = self, []
        rate, log_l2 = self._hyper()

        class Hyper(torch.nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.rate = torch.nn.Parameter(rate.detach().clone())
                self.log_l2 = torch.nn.Parameter(log_l2.detach().clone())

            def forward(self) -> tuple[torch.Tensor, torch.Tensor]:
                return self.rate, self.log_l2

        class Outer(ImplicitProblem):
            def training_step(self, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
                return functional.cross_entropy(self.inner(batch[0]), batch[1])

            def custom_optimizer_step(self) -> None:
                found.extend([self.module.rate.grad, self.module.log_l2.grad])

        class Inner(IterativeProblem):
            def forward(self, x: torch.Tensor) -> torch.Tensor:
                return self.fmodule(self.params, self.buffers, x)

            def training_step(self, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
                rate, log_l2 = self.outer()
                self.optimizer.param_groups[0]["lr"] = rate
                loss = functional.cross_entropy(self(batch[0]), batch[1])
                return loss + torch.exp(log_l2) * (self.params[0] ** 2).sum()

        module, hyper = _Module(self._weights()), Hyper()
        inner = Inner(
            name="inner",
            config=Config(unroll_steps=len(self._batches), retain_graph=True, first_order=False),
            module=module,
            optimizer=torch.optim.SGD(
                module.parameters(), lr=shared.LEARNING_RATE, momentum=shared.MOMENTUM
            ),
            train_data_loader=_Batches(owner._train, owner._batches),
            device="cpu",
        )
        outer = Outer(
            name="outer",
            config=Config(first_order=False),
            module=hyper,
            optimizer=torch.optim.SGD(hyper.parameters(), lr=0.0),
            train_data_loader=[owner._valid],
            device="cpu",
        )
        engine = Engine(
            problems=[outer, inner],
            config=EngineConfig(train_iters=len(self._batches), valid_step=10**9),
            dependencies={"u2l": {}, "l2u": {inner: [outer]}},
        )
        # Its dependencies make the outer module known to the inner problem only where betty's own
        # implicit gradients are wanted; here they flow through the unrolled steps.
        inner.outer = outer
        outer.inner = inner
        engine.run()
        return _floats(found)


class _Module(torch.nn.Module):
    """The network as a module."""

    def __init__(self, weights: Sequence[torch.Tensor]) -> None:
        super().__init__()
        self.layers = torch.nn.ModuleList()
        for kernel, bias in zip(weights[::2], weights[1::2], strict=True):
            layer = torch.nn.Linear(*kernel.shape, dtype=kernel.dtype)
            layer.weight = torch.nn.Parameter(kernel.detach().T.contiguous())
            layer.bias = torch.nn.Parameter(bias.detach())
            self.layers.append(layer)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        *hidden, last = self.layers
        for layer in hidden:
            x = torch.tanh(layer(x))
        return last(x)


class _Batches:
    """The batches in their order, as a loader."""

    def __init__(self, data: tuple[torch.Tensor, torch.Tensor], batches: torch.Tensor) -> None:
        self._data, self._batches = data, batches

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        for chosen in self._batches:
            yield self._data[0][chosen], self._data[1][chosen]


def _network(weights: Sequence[torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    for kernel, bias in zip(weights[:-2:2], weights[1:-2:2], strict=True):
        x = torch.tanh(x @ kernel + bias)
    return x @ weights[-2] + weights[-1]


def _floats(found: Sequence[torch.Tensor]) -> list[float]:
    return [float(value) for value in found]
