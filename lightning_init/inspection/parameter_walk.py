"""Every place of a model that holds a parameter, with names that are stable and tag-safe."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from torch import nn
from torch.nn.parameter import is_lazy
from torch.nn.utils import parametrize

from lightning_init.inspection.fans import WeightBlock, weight_blocks

# Components that a wrapper puts into a name. "module" may also be the user's own attribute, so it
# counts only below a class that is known to use it.
_WRAPPER_COMPONENTS = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
_WRAPPERS_WITH_MODULE = (nn.DataParallel, nn.parallel.DistributedDataParallel)


@dataclass(frozen=True)
class ParameterSlot:
    """One attribute of one module that holds a parameter; a tied parameter has several.

    Args:
        module: The module.
        module_name: Its name in `model.named_modules()`, as `model.get_submodule` takes it.
        public_name: The same without wrappers, of the characters `[A-Za-z0-9_.-]` only.
        attribute: Attribute of the module that yields the tensor.
        leaves: The parameters behind the attribute: more than one under a parametrization.
        in_metric: Whether a torchmetrics metric holds the module.
        module_blocks: Every weight matrix that the module holds.
    """

    module: nn.Module
    module_name: str
    public_name: str
    attribute: str
    leaves: tuple[nn.Parameter, ...]
    in_metric: bool
    module_blocks: tuple[WeightBlock, ...]

    @cached_property
    def parameter_name(self) -> str:
        """Public module name and attribute: "net.0.weight"."""
        return _join(self.public_name, _tag_safe(self.attribute))

    @cached_property
    def layer_name(self) -> str:
        """The parameter's name without ".weight": "net.0"."""
        is_weight = self.attribute == "weight" and self.public_name
        return self.public_name if is_weight else self.parameter_name

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the whole tensor; `()` while it is lazy."""
        if any(is_lazy(leaf) for leaf in self.leaves):
            return ()
        # Evaluating a parametrization may have side effects (the power iteration of spectral_norm),
        # and the largest tensor behind it has the weight's shape.
        return tuple(max(self.leaves, key=lambda leaf: leaf.numel()).shape)

    @property
    def module_type(self) -> str:
        """Class name of the module, without its parametrizations."""
        return parametrize.type_before_parametrizations(self.module).__name__

    @property
    def parametrizations(self) -> tuple[str, ...]:
        """Class names of the parametrizations of the attribute, in the order they apply."""
        if not parametrize.is_parametrized(self.module, self.attribute):
            return ()
        chains = self.module.parametrizations
        assert isinstance(chains, nn.ModuleDict)
        return tuple(type(one).__name__ for one in chains[self.attribute].children())

    @cached_property
    def blocks(self) -> tuple[WeightBlock, ...]:
        """The weight matrices in the tensor; none outside the known kinds of layer."""
        return tuple(one for one in self.module_blocks if one.attribute == self.attribute)

    @cached_property
    def is_bias(self) -> bool:
        """Whether it is the bias of a known kind of layer."""
        return any(self.attribute in block.biases for block in self.module_blocks)


def walk_parameters(model: nn.Module) -> Iterator[ParameterSlot]:
    """Yield every slot of a model in the order of its modules, shared modules under every name.

    Args:
        model: Any module; nothing is changed and no parametrization is evaluated.

    Example:
        >>> [slot.layer_name for slot in walk_parameters(nn.Sequential(nn.Linear(3, 2)))]
        ['0', '0.bias']
    """
    public_names = _public_names(model)
    inside_parametrizations: set[str] = set()
    inside_metrics: set[str] = set()
    for name, module in model.named_modules(remove_duplicate=False):
        parent = name.rpartition(".")[0]
        if name and (parent in inside_metrics or _is_metric(module)):
            inside_metrics.add(name)
        if name and parent in inside_parametrizations:
            inside_parametrizations.add(name)
        if parametrize.is_parametrized(module):
            inside_parametrizations.add(_join(name, "parametrizations"))
        if name in inside_parametrizations:
            continue
        blocks = weight_blocks(module)
        public, in_metric = public_names[name], name in inside_metrics
        for attribute, leaves in _attributes(module):
            yield ParameterSlot(module, name, public, attribute, leaves, in_metric, blocks)


def _attributes(module: nn.Module) -> Iterator[tuple[str, tuple[nn.Parameter, ...]]]:
    if parametrize.is_parametrized(module):
        parametrizations = module.parametrizations
        assert isinstance(parametrizations, nn.ModuleDict)
        for attribute, chain in parametrizations.items():
            # A parametrized buffer has none.
            if leaves := tuple(chain.parameters()):
                yield attribute, leaves
    for attribute, parameter in module.named_parameters(recurse=False, remove_duplicate=False):
        yield attribute, (parameter,)


def _public_names(model: nn.Module) -> dict[str, str]:
    modules = dict(model.named_modules(remove_duplicate=False))
    public_names = {"": ""}
    taken: set[str] = set()
    for name in modules:
        if not name:
            continue
        parent, _, component = name.rpartition(".")
        if _is_wrapper(modules[parent], component):
            public_names[name] = public_names[parent]
            continue
        public_name = _join(public_names[parent], _tag_safe(component))
        while public_name in taken:  # two names that differ in an unsafe character only
            public_name += "_"
        taken.add(public_name)
        public_names[name] = public_name
    return public_names


def _is_wrapper(parent: nn.Module, component: str) -> bool:
    return component in _WRAPPER_COMPONENTS or (
        component == "module" and isinstance(parent, _WRAPPERS_WITH_MODULE)
    )


def _is_metric(module: nn.Module) -> bool:
    # By name, because this room does not import torchmetrics.
    return any(
        base.__name__ == "Metric" and base.__module__.startswith("torchmetrics")
        for base in type(module).__mro__
    )


def _tag_safe(component: str) -> str:
    return re.sub(r"[^A-Za-z0-9_./-]", "_", component)


def _join(prefix: str, component: str) -> str:
    return f"{prefix}.{component}" if prefix else component
