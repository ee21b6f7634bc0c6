"""An optimizer of this package as a Keras optimizer, which holds its state in Keras variables."""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Collection, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

import mlhf
from mlhf import keras_internals
from mlhf.checks import parameter_names
from mlhf.checks.arguments import check_number
from mlhf.keras import serialization
from mlhf.keras.held_state import STATE, HeldState
from mlhf.objective import Regularizer
from mlhf.optimizers import settings
from mlhf.optimizers.protocol import complete
from mlhf.optimizers.settings import is_schedule, is_variable

# Kept as they are: TensorFlow would wrap structures in others, to track what is inside.
_PLAIN = (
    "optimizer",
    "names",
    "regularizer",
    "logs",
    "_kinds",
    "_model",
    "_held",
    "_seeds",
    "_rate_variable",
)
_SEED = "seed_"
_WITHOUT_MEANING = (
    "clipnorm",
    "clipvalue",
    "global_clipnorm",
    "ema_overwrite_frequency",
    "loss_scale_factor",
    "gradient_accumulation_steps",
    "use_ema",
)


@keras.saving.register_keras_serializable(package="mlhf")
class Optimizer(keras.optimizers.Optimizer):
    """The optimizer of a model that `mlhf.keras.compile` prepared, `model.optimizer`.

    It holds a copy of the optimizer that was given, `optimizer`, whose numbers (`damping`) can be
    set here too, the learning rate as a Keras variable, and the state as Keras variables, which
    Keras saves with the model. New numbers hold from the next step on. It takes steps where `fit`
    calls the training step of `compile`; gradients alone it refuses, since they are not enough.

    Attributes:
      optimizer: The optimizer inside.
      names: The parameters' names, in the order of the model's trainable variables: their paths
        when the optimizer first saw the model. Keras changes paths when it loads a model; the
        state, `excluded=` and `kinds=` go by these names.
    """

    def __init__(
        self,
        optimizer: Any,
        *,
        parameter_names: Sequence[str] | None = None,
        kinds: Any = None,
        regularizer: Regularizer | None = None,
        logs: bool | Collection[str] = (),
        name: str = "mlhf",
        **unknown: Any,
    ) -> None:
        """Makes a Keras optimizer; `mlhf.keras.compile` does.

        Args:
          optimizer: An optimizer of this package, which is copied.
          parameter_names: The parameters' names; None for the variables' paths.
          kinds: The kinds of variables by these names, for `mlhf.MetaHessianFree`.
          regularizer: The penalty besides those of the layers.
          logs: The names of the optimizer's numbers that become logs; True for all.
          name: The name in messages of Keras.
          **unknown: Arguments of other Keras optimizers, which are refused.

        Raises:
          TypeError: If it is given anything else.
        """
        refuse(unknown, "the optimizer of mlhf.keras.compile")
        # A function as the rate, so that Keras makes no variable of its own, in single precision.
        super().__init__(learning_rate=lambda: None, name=name)
        inside = serialization.copy_of(optimizer)
        self.optimizer: Any = complete(inside)
        self.names = list(parameter_names or [])
        self._kinds = kinds
        self.regularizer = regularizer
        self.logs: Any = True if logs is True else list(logs or ())
        self._model: Any = lambda: None
        self._rate_variable: Any = None
        self._held: Any = None
        self._seeds: list[Any] = []
        self._adopt_rate()
        settings.add_follower(optimizer, self)

    # The learning rate and other numbers.

    def _adopt_rate(self) -> None:
        """Lets the optimizer inside read its learning rate from a Keras variable."""
        rate = getattr(self.optimizer, "learning_rate", None)
        if rate is None or is_schedule(rate) or not _is_settable(self.optimizer):
            return
        value = float(tf.convert_to_tensor(rate).numpy()) if is_variable(rate) else float(rate)
        # In double precision, so that it reads as the number that was set.
        self._rate_variable = self.add_variable(
            (), keras.initializers.Constant(value), "float64", name="learning_rate"
        )
        self._rate_variable.assign(value)
        self.optimizer.learning_rate = self._rate_variable

    @property
    def learning_rate(self) -> Any:
        """The learning rate: a variable, or the value of a schedule after the steps taken."""
        if self._rate_variable is not None:
            return self._rate_variable
        rate = getattr(self.optimizer, "learning_rate", None)
        if rate is None:
            raise AttributeError("learning_rate")
        if is_schedule(rate):
            return tf.convert_to_tensor(rate(tf.cast(self.iterations.value, tf.float64)))
        return rate

    @learning_rate.setter
    def learning_rate(self, rate: Any) -> None:
        if self._rate_variable is None:
            given = getattr(self.optimizer, "learning_rate", None)
            what = "without one" if given is None else f"with {given!r}"
            raise ValueError(
                f"Expected an optimizer with a number as its learning rate to set it to {rate!r}, "
                f"got {type(self.optimizer).__name__} {what}: make it with learning_rate=0.1 or "
                "another number."
            )
        if is_schedule(rate):
            raise ValueError(
                f"Expected a number as the new learning rate, got {rate!r}: give a schedule to the "
                "optimizer where it is made, and compile the model with that."
            )
        if not tf.is_tensor(rate) or hasattr(rate, "numpy"):
            rate = check_number("learning_rate", settings.as_python(rate), at_least=0)
        self._rate_variable.assign(rate)

    def __getattr__(self, name: str) -> Any:
        inside = self.__dict__.get("optimizer")
        if name == "learning_rate":
            raise AttributeError(
                f"Expected an optimizer with a learning rate, got {type(inside).__name__} without "
                "one: it finds the length of a step itself."
            )
        if inside is not None and name in settings.numbers_of(type(inside)):
            return getattr(inside, name)
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def __setattr__(self, name: str, value: Any) -> None:
        inside = self.__dict__.get("optimizer")
        if inside is not None and name != "learning_rate":
            if name in settings.numbers_of(type(inside)):
                setattr(inside, name, value)
                return
            if name in _WITHOUT_MEANING and value:
                refuse({name: value}, type(inside).__name__)
        if name in _PLAIN:
            object.__setattr__(self, name, value)
            return
        super().__setattr__(name, value)

    # The state.

    def attach(self, model: Any) -> None:
        """Names the model that it trains.

        Its layers tell the kinds of variables, and draw the random numbers that go on where they
        were when the model was saved.
        """
        self._model = weakref.ref(model)
        seeds = keras_internals.seeds_of(model)
        if self._seeds and len(self._seeds) == len(seeds):
            for variable, value in zip(seeds, self._seeds, strict=True):
                variable.assign(value)
        self._seeds = []

    def build(self, variables: Sequence[Any]) -> None:
        """Makes the variables of the state.

        Args:
          variables: The model's trainable variables.

        Raises:
          ValueError: If variables have the same path, or the optimizer was built for others.
        """
        if self.built:
            self.check_variables(variables)
            return
        if not variables:
            # As the loader of old .h5 files asks for, which has no state to load here.
            return
        super().build(list(variables))
        if not self.names:
            self.names = [variable.path for variable in variables]
        if len(set(self.names)) != len(self.names) or len(self.names) != len(variables):
            twice = sorted({name for name in self.names if self.names.count(name) > 1})
            raise ValueError(
                f"Expected {len(self.names)} trainable variables of different paths, got "
                f"{len(variables)}, of which several share {twice}: give their layers different "
                "names."
            )
        parameters = self.parameters()
        self._held = HeldState(self, parameters, self._initial(parameters))

    def _initial(self, parameters: dict[str, tf.Tensor]) -> Any:
        """Returns the first state of parameters."""
        model = self._model()
        if isinstance(self.optimizer, mlhf.MetaHessianFree):
            if self._kinds is None:
                self._kinds = self._find_kinds(model)
            return self.optimizer.init(parameters, self._kinds)
        same = model is not None and model_paths(model) == self.names
        return self.optimizer.init(model if same else parameters)

    def _find_kinds(self, model: Any) -> Any:
        """Returns the kinds that the user gave and those that the layers tell, by our names."""
        given, names = self.optimizer.given_kinds, self.names
        if model is None or not (given is None or isinstance(given, dict)):
            return given
        of_layers = mlhf.kinds_of_model(model)
        paths = zip(model_paths(model), names, strict=True)
        kinds = {name: of_layers[path] for path, name in paths if path in of_layers}
        for key, kind in (given or {}).items():
            kinds[parameter_names.find(key, names) or key] = kind
        return kinds

    def check_variables(self, variables: Sequence[Any]) -> None:
        """Raises ValueError unless it was built for the same variables."""
        built = [id(variable) for variable in self._trainable_variables]
        if [id(variable) for variable in variables] != built:
            raise ValueError(
                f"Expected the {len(built)} trainable variables that the model had when it was "
                f"compiled, got {len(variables)}: after freezing layers or changing them call "
                "mlhf.keras.compile again."
            )

    def parameters(self) -> dict[str, tf.Tensor]:
        """Returns the values of the model's trainable variables by name."""
        values = [tf.convert_to_tensor(variable) for variable in self._trainable_variables]
        return dict(zip(self.names, values, strict=True))

    def read(self) -> tuple[dict[str, tf.Tensor], Any]:
        """Returns the parameters that the next step starts from, and the state."""
        return self._held.read(self.parameters())

    def write(self, parameters: dict[str, tf.Tensor], state: Any) -> None:
        """Writes what a step returned into the model's variables and the state's, and counts it."""
        parameters = self._held.write(parameters, state)
        for variable, name in zip(self._trainable_variables, self.names, strict=True):
            variable.assign(parameters[name])
        self.iterations.assign_add(1)

    def prepare(self) -> None:
        """Makes the state fit a model whose weights were set by others, before `fit` begins."""
        parameters = self.parameters()
        if int(self.iterations.numpy()) and not self._held.is_left_behind(parameters):
            return
        self._held.begin(parameters, self._initial(parameters))

    # Keras' interface.

    def apply(self, grads: Any, trainable_variables: Any = None) -> None:
        """Refuses gradients.

        Raises:
          ValueError: Always; the message says what to do.
        """
        del grads, trainable_variables
        raise ValueError(
            f"Expected the training step of mlhf.keras.compile, got gradients alone, from which "
            f"{type(self.optimizer).__name__} can't take a step: load models with "
            "mlhf.keras.load_model, or call mlhf.keras.compile(model, model.optimizer, model.loss, "
            "...) before fit."
        )

    def apply_gradients(self, grads_and_vars: Any) -> None:
        """Refuses gradients, as `apply` does."""
        self.apply(grads_and_vars)

    def save_own_variables(self, store: Any) -> None:
        """Saves the count of steps, the learning rate and the state, the same on every machine."""
        store["iteration"] = np.asarray(self.iterations)
        if self._rate_variable is not None:
            store["learning_rate"] = np.asarray(self._rate_variable)
        if not self.built:
            return
        self._held.save(store, self.parameters())
        model = self._model()
        for number, variable in enumerate([] if model is None else keras_internals.seeds_of(model)):
            store[f"{_SEED}{number:05d}"] = np.asarray(variable)

    def load_own_variables(self, store: Any) -> None:
        """Loads what `save_own_variables` saved; warns, as Keras does, of what others saved.

        Raises:
          ValueError: If it is the state of another optimizer or network.
        """
        found = set(store.keys())
        if not self.built or not any(key.startswith(STATE) for key in found):
            warnings.warn(
                f"The state of {type(self.optimizer).__name__} was not loaded, since the file has "
                f"{len(found)} variables of another optimizer or the model is not built: training "
                "continues from its first state.",
                stacklevel=2,
            )
            return
        self._held.load(store, self.parameters())
        self._seeds = [np.asarray(store[key]) for key in sorted(found) if key.startswith(_SEED)]
        if self._model() is not None:
            self.attach(self._model())
        self.iterations.assign(np.asarray(store["iteration"]))
        if self._rate_variable is not None and "learning_rate" in found:
            self._rate_variable.assign(np.asarray(store["learning_rate"]))

    def get_config(self) -> dict[str, Any]:
        """Returns what `from_config` makes it of: the optimizer inside, and parameters' names."""
        rate = None if self._rate_variable is None else float(self._rate_variable.numpy())
        return {
            "optimizer": serialization.to_config(self.optimizer, rate),
            "parameter_names": self.names or None,
            "kinds": self._kinds,
            "regularizer": serialization.to_json("regularizer", self.regularizer, Optimizer),
            "logs": self.logs,
            "name": self.name,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> Optimizer:
        """Returns the optimizer that `get_config` described."""
        del custom_objects
        inside = serialization.from_config(config["optimizer"])
        rest = {key: value for key, value in config.items() if key != "optimizer"}
        rest["regularizer"] = serialization.from_json(rest.get("regularizer"))
        return cls(inside, **rest)


def model_paths(model: Any) -> list[str]:
    """Returns the paths of a model's trainable variables, in their order."""
    return [variable.path for variable in model.trainable_variables]


def _is_settable(optimizer: Any) -> bool:
    """Whether an optimizer's learning rate may be a variable."""
    if "learning_rate" in settings.numbers_of(type(optimizer)):
        return True
    inside = getattr(optimizer, "keras_optimizer", None)
    return inside is not None and is_variable(keras_internals.learning_rate_of(inside))


def refuse(arguments: dict[str, Any], what: str) -> None:
    """Refuses arguments of Keras' optimizers that have no meaning here.

    Args:
      arguments: The arguments by name.
      what: What does not take them, for the message.

    Raises:
      TypeError: If there are any.
    """
    if arguments:
        raise TypeError(
            f"Expected arguments that mean something to {what}, got {sorted(arguments)}: its steps "
            "are bounded by the damping, not by clipped gradients, and averaged, scaled or "
            "accumulated gradients are for Keras' own optimizers (mlhf.FirstOrder takes those)."
        )
