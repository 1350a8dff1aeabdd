"""How much max pooling adds, measured in a run on weights that are drawn anew.

The largest of k outputs of a convolution has no closed form, as neighbours share inputs. How alike
they are depends on the data and on the architecture, not on the scale of the weights. The first
weights of a model do not show it: a bias that outweighs them makes all neighbours equal.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from lightning_init.inspection.calls import Call
from lightning_init.inspection.operation_names import LAYERS, MAX_POOLS, NORMS, operation_name
from lightning_init.inspection.regions import tensors_in
from lightning_init.inspection.signals import Signal, max_pool
from lightning_init.theory.max_pooling import effective_draws


class Enough(Exception):
    """Every max pooling that was expected has been seen."""


class PoolMode(TorchFunctionMode):
    """Runs a model with normal weights and without biases, and watches its max pooling.

    `growths` has one entry for every call: the mean square of the positive part of the largest z,
    over the mean square of z itself, the output of the layer or norm in front. The largest -z
    counts as much, as if every weight were drawn with both signs.

    Args:
        calls: Where `Enough` is raised: what follows need not be run.
    """

    def __init__(self, calls: float = math.inf) -> None:
        super().__init__()
        self._calls = calls
        self.growths: list[float] = []
        self._generator = torch.Generator().manual_seed(0)
        self._layer: Tensor | None = None

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = dict(kwargs or {})
        name = operation_name(func)
        if name in LAYERS and name != "bilinear":
            args = self._drawn_anew(args, kwargs)
        result = func(*args, **kwargs)
        if name in LAYERS or name in NORMS:
            self._layer = result
        elif name in MAX_POOLS:
            self.growths.append(self._growth(func, args, kwargs))
            if len(self.growths) >= self._calls:
                raise Enough
        return result

    @torch.no_grad()
    def _growth(
        self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> float:
        given = args[0] if args else kwargs["input"]
        z = given if self._layer is None or self._layer.shape != given.shape else self._layer
        if not bool(z.any()):
            return 0.0
        rest = {key: value for key, value in kwargs.items() if key != "input"}
        # Branches that are joined have been activated, and are one half of what was.
        signed = bool((z < 0).any())
        largest = [tensors_in(func(one, *args[1:], **rest))[0] for one in (z, -z)[: 1 + signed]]
        return sum(_mean_square(one.relu()) for one in largest) / (2.0 * _mean_square(z))

    def _drawn_anew(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, ...]:
        given = [*args, *(kwargs.pop(key) for key in ("input", "weight", "bias") if key in kwargs)]
        entered, matrix, rest = given[0], given[1], given[3:]
        if isinstance(matrix, nn.Parameter):
            scale = (2.0 / max(1, matrix[0].numel())) ** 0.5
            draw = scale * torch.randn(matrix.shape, generator=self._generator)
            if not bool(entered.any()):  # an example of zeros stands for any input
                entered = torch.randn(entered.shape, generator=self._generator).to(matrix)
            if entered.dim() == matrix.dim() > 2:  # signs of its own make a net of every sample
                signs = torch.randint(2, entered.shape[:2], generator=self._generator)
                signs = signs.reshape(*signs.shape, *[1] * (matrix.dim() - 2))
                entered = entered * (2.0 * signs.to(entered) - 1.0)
            return (entered, draw.to(matrix), None, *rest)
        return tuple(given)


def _mean_square(tensor: Tensor) -> float:
    return float(tensor.detach().double().square().mean())


class MaxPools:
    """Gives the max poolings of a trace their laws, in the order in which they are called.

    Args:
        growths: As `PoolMode` measured them; empty where nothing was measured.
    """

    def __init__(self, growths: Sequence[float]) -> None:
        self.count = 0
        self._growths = growths

    def behind(self, call: Call) -> Signal:
        """The signal behind the next max pooling."""
        growth = self._growths[self.count] if self.count < len(self._growths) else 0.0
        self.count += 1
        draws = effective_draws("relu", None, growth) if growth > 0.0 else None
        return max_pool(call.signals[0], draws)
