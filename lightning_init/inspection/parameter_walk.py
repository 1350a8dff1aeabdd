"""Every place of a model that holds a parameter, with names that are stable and tag-safe."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import NamedTuple

from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.nn.utils import parametrize

from lightning_init.inspection.fans import Fans, WeightBlock, weight_blocks
from lightning_init.inspection.matrices import traced_blocks

# Components that a wrapper puts into a name. "module" may also be the user's own attribute, so it
# counts only below a class that is known to use it.
_WRAPPER_COMPONENTS = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
_WRAPPERS_WITH_MODULE = (nn.DataParallel, nn.parallel.DistributedDataParallel)

_NAMED_PARAMETERS = nn.Module.named_parameters

# Name, parameters behind it, class names of its parametrizations.
_Attribute = tuple[str, tuple[nn.Parameter, ...], tuple[str, ...]]


class ParameterSlot(NamedTuple):
    """One attribute of one module that holds a parameter; a tied parameter has several.

    Args:
        module: The module.
        module_name: Its name in `model.named_modules()`, as `model.get_submodule` takes it.
        public_name: The same without wrappers, of the characters `[A-Za-z0-9_.-]` only.
        attribute: Attribute of the module that yields the tensor.
        leaves: The parameters behind the attribute: more than one under a parametrization.
        parametrizations: Class names of the parametrizations of the attribute, in the order they
            apply.
        module_type: Class name of the module, without its parametrizations.
        in_metric: Whether a torchmetrics metric holds the module.
        module_blocks: Every weight matrix that the module holds.
        blocks: Those of them that are in this tensor; none outside the known kinds of layer.
        is_bias: Whether it is the bias of a known kind of layer.
    """

    module: nn.Module
    module_name: str
    public_name: str
    attribute: str
    leaves: tuple[nn.Parameter, ...]
    parametrizations: tuple[str, ...]
    module_type: str
    in_metric: bool
    module_blocks: tuple[WeightBlock, ...]
    blocks: tuple[WeightBlock, ...]
    is_bias: bool

    @property
    def parameter_name(self) -> str:
        """Public module name and attribute: "net.0.weight"."""
        return _join(self.public_name, _tag_safe(self.attribute))

    @property
    def layer_name(self) -> str:
        """The parameter's name without ".weight": "net.0"."""
        if self.attribute == "weight" and self.public_name:
            return self.public_name
        return _join(self.public_name, _tag_safe(self.attribute))

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the whole tensor; `()` while it is lazy."""
        if len(self.leaves) == 1:
            return () if is_lazy(self.leaves[0]) else tuple(self.leaves[0].shape)
        if any(map(is_lazy, self.leaves)):
            return ()
        # Evaluating a parametrization may have side effects (the power iteration of spectral_norm),
        # and the largest tensor behind it has the weight's shape.
        return tuple(max(self.leaves, key=lambda leaf: leaf.numel()).shape)


def walk_parameters(
    model: nn.Module, matrices: Mapping[int, Fans] | None = None
) -> Iterator[ParameterSlot]:
    """Yield every slot of a model in the order of its modules, shared modules under every name.

    Args:
        model: Any module; nothing is changed and no parametrization is evaluated.
        matrices: By identity, the fans of parameters that are weights whatever class holds them.

    Example:
        >>> [slot.layer_name for slot in walk_parameters(nn.Sequential(nn.Linear(3, 2)))]
        ['0', '0.bias']
    """
    modules = _named_modules(model)
    public_names = _public_names(modules)
    inside_parametrizations: set[str] = set()
    inside_metrics: set[str] = set()
    metrics = {kind for kind in {*map(type, modules.values())} if _is_metric(kind)}
    # Asked of the names, where the answer "no" costs least.
    may_be_parametrized = {_parent(name) for name in modules if name.endswith("parametrizations")}
    for name, module in modules.items():
        if name and metrics and (_parent(name) in inside_metrics or type(module) in metrics):
            inside_metrics.add(name)
        if inside_parametrizations and _parent(name) in inside_parametrizations:
            inside_parametrizations.add(name)
        parametrized = name in may_be_parametrized and parametrize.is_parametrized(module)
        if parametrized:
            inside_parametrizations.add(_join(name, "parametrizations"))
        if name in inside_parametrizations:
            continue
        attributes: list[_Attribute] = [*_parametrized(module)] if parametrized else []
        attributes += [(attribute, (leaf,), ()) for attribute, leaf in own_parameters(module)]
        if not attributes:
            continue
        kind = parametrize.type_before_parametrizations(module) if parametrized else type(module)
        blocks = weight_blocks(module)
        if matrices:
            blocks += traced_blocks(dict(own_parameters(module)), blocks, matrices)
        biases = [bias for block in blocks for bias in block.biases]
        public, in_metric = public_names[name], name in inside_metrics
        for attribute, leaves, chain in attributes:
            held = tuple([block for block in blocks if block.attribute == attribute])
            roles = (blocks, held, attribute in biases)
            yield ParameterSlot(
                module, name, public, attribute, leaves, chain, kind.__name__, in_metric, *roles
            )


def modules_of(model: nn.Module) -> list[nn.Module]:
    """What `model.modules()` yields, in its order, at a quarter of the time.

    Example:
        >>> model = nn.Sequential(nn.Sequential(nn.ReLU()), nn.Tanh())
        >>> modules_of(model) == [*model.modules()]
        True
    """
    found: dict[nn.Module, None] = {}
    stack = [model]
    while stack:
        module = stack.pop()
        if module not in found:
            found[module] = None
            table = module.__dict__.get("_modules")
            if table or table is None:  # most modules have none below them
                below = table.values() if isinstance(table, dict) else [*module.children()]
                stack += [one for one in reversed(below) if one is not None]
    return [*found]


def _named_modules(model: nn.Module) -> dict[str, nn.Module]:
    """What `model.named_modules(remove_duplicate=False)` yields, in its order."""
    found: dict[str, nn.Module] = {}
    stack = [("", model)]
    while stack:
        name, module = stack.pop()
        found[name] = module
        table = module.__dict__.get("_modules")
        if table or table is None:
            below = table.items() if isinstance(table, dict) else [*module.named_children()]
            prefix = f"{name}." if name else ""
            stack += [(f"{prefix}{one}", part) for one, part in reversed(below) if part is not None]
    return found


def module_at(model: nn.Module, name: str) -> nn.Module:
    """Return the module of that name in `model.named_modules()`.

    What `model.get_submodule` does, by the tables of modules alone: a sixth of its time.

    Example:
        >>> module_at(nn.Sequential(nn.Sequential(nn.Linear(3, 2))), "0.0")
        Linear(in_features=3, out_features=2, bias=True)
    """
    module = model
    try:
        for component in name.split(".") if name else ():
            module = vars(module)["_modules"][component]
    except KeyError:
        return model.get_submodule(name)
    return module


def tensor_at(module: nn.Module, attribute: str) -> Tensor:
    """Return a tensor of a module: the parameter of that name, or what the attribute computes."""
    table = vars(module)["_parameters"]
    parameter = table.get(attribute) if isinstance(table, dict) else None  # TorchScript has its own
    tensor: Tensor = getattr(module, attribute) if parameter is None else parameter
    return tensor


def own_parameters(module: nn.Module) -> list[tuple[str, nn.Parameter]]:
    """Names and parameters that a module holds itself, tied ones under every name.

    Read off the module's table, as `named_parameters` takes ten times as long for a small layer;
    asked of `named_parameters` where it is overridden or the table is none.

    Example:
        >>> [name for name, _ in own_parameters(nn.Linear(3, 2))]
        ['weight', 'bias']
    """
    table = module.__dict__.get("_parameters")
    if type(module).named_parameters is _NAMED_PARAMETERS and isinstance(table, dict):
        return [named for named in table.items() if named[1] is not None] if table else []
    return [*module.named_parameters(recurse=False, remove_duplicate=False)]


def parameters_below(module: nn.Module) -> list[nn.Parameter]:
    """All parameters of a module, those of its submodules included; quickest when it has none."""
    if vars(module).get("_modules"):
        return [*module.parameters()]
    return [parameter for _, parameter in own_parameters(module)]


def _parametrized(module: nn.Module) -> Iterator[_Attribute]:
    parametrizations = module.parametrizations
    assert isinstance(parametrizations, nn.ModuleDict)
    for attribute, chain in parametrizations.items():
        # A parametrized buffer has none.
        if leaves := tuple(chain.parameters()):
            yield attribute, leaves, tuple(type(one).__name__ for one in chain.children())


def _public_names(modules: Mapping[str, nn.Module]) -> dict[str, str]:
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


def _parent(name: str) -> str:
    return name.rpartition(".")[0]


def _is_wrapper(parent: nn.Module, component: str) -> bool:
    return component in _WRAPPER_COMPONENTS or (
        component == "module" and isinstance(parent, _WRAPPERS_WITH_MODULE)
    )


@lru_cache(maxsize=256)
def _is_metric(kind: type[nn.Module]) -> bool:
    # By name, because this room does not import torchmetrics.
    return any(
        base.__name__ == "Metric" and base.__module__.startswith("torchmetrics")
        for base in kind.__mro__
    )


@lru_cache(maxsize=1024)
def _tag_safe(component: str) -> str:
    return re.sub(r"[^A-Za-z0-9_./-]", "_", component)


def _join(prefix: str, component: str) -> str:
    return f"{prefix}.{component}" if prefix else component
