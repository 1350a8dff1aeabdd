"""What a probe found, on disk: a JSON file that draws the same scales again, under another seed."""

from __future__ import annotations

import contextlib
import json
import math
import os
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, cast

from torch import nn

from lightning_init.initialization.fill import fill_normal_
from lightning_init.inspection.weights import Weight, WeightInventory, find_every_weight
from lightning_init.recipes import recipe_format
from lightning_init.recipes.fitting import fitting_layers, refuse_what_no_weight_can_hold
from lightning_init.recipes.measured import measure_checkpoints, measure_module
from lightning_init.recipes.recipe_format import FORMAT_VERSION, Action, RecipeLayer
from lightning_init.recipes.recipe_page import ReadableRecipe
from lightning_init.reporting.rendering import plain
from lightning_init.reporting.report import InitReport
from lightning_init.validation import checked

_LIBRARIES = ("lightning", "lightning_init", "torch")


@dataclass(frozen=True, repr=False)
class InitRecipe(ReadableRecipe):
    """The variances that a probe found, ready to be drawn again without one; `print` shows them.

    Args:
        layers: What to draw, in model order.
        left_out: Names of the weights that took no part in the probe.
        settings: Pairs of setting and value of the callback, for the reader.
        optimizers: Pairs of optimizer class and learning rate, one per parameter group: V is
            proportional to the learning rate at a steady state.
        library_versions: Pairs of library and version.

    Example:
        >>> layer = RecipeLayer("net.0", (4, 8), 8, 0.25, "redrawn", "stationary", 0.25, 0.01)
        >>> recipe = InitRecipe((layer,))
        >>> recipe == InitRecipe.from_json(recipe.to_json())
        True
    """

    layers: tuple[RecipeLayer, ...]
    left_out: tuple[str, ...] = ()
    settings: tuple[tuple[str, Any], ...] = ()
    optimizers: tuple[tuple[str, float], ...] = ()
    library_versions: tuple[tuple[str, str], ...] = ()

    @classmethod
    def from_report(
        cls, report: InitReport, optimizers: Sequence[tuple[str, float]] = ()
    ) -> InitRecipe:
        """Keep of a report what is needed to draw again.

        Args:
            report: What a probe found.
            optimizers: Optimizer class and learning rate, one pair per parameter group.

        Raises:
            ValueError: The report holds what a recipe may not, e.g. a variance that is not finite.
        """
        layers = [
            RecipeLayer(
                name=layer.name,
                shape=layer.shape,
                fan_in=layer.fan_in or None,
                sigma0_squared=layer.sigma0**2,
                action=cast(Action, layer.action),
                verdict=layer.verdict.value,
                variance=plain(layer.variance),
                standard_error=plain(layer.standard_error),
            )
            for layer in report.layers
        ]
        inventory = WeightInventory((), report.left_out)
        recipe = cls.from_measured(layers, inventory, optimizers, report.settings)
        return cls(*recipe_format.parse(_content(recipe)))

    @classmethod
    def read(cls, path: str | os.PathLike[str], module: nn.Module) -> InitRecipe:
        """Read a recipe, or take one from a checkpoint: whichever the file is.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: The file is neither, or does not fit; the message names it.
        """
        is_recipe = os.fspath(path).endswith(".json")
        return cls.load(path) if is_recipe else cls.from_checkpoint(path, module)

    @classmethod
    def from_module(cls, module: nn.Module) -> InitRecipe:
        """Take V(W) of the weights that a module holds now, e.g. at the end of a training.

        Raises:
            ValueError: A weight holds values that are not finite.
        """
        inventory = find_every_weight(module)
        return cls.from_measured(measure_module(module, inventory), inventory)

    @classmethod
    def from_checkpoint(
        cls,
        path: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
        module: nn.Module,
    ) -> InitRecipe:
        """Take V(W) of what an earlier run, or several, ended at.

        Lightning checkpoints, plain state dicts and safetensors files are read; nothing in them is
        executed. Names are matched through the wrappers that people use (`model.`, `_orig_mod.`,
        `module.`).

        Args:
            path: One checkpoint, or several: seeds, or epochs of one run. Of several the recipe
                holds exp(mean of log V) and the spread of log V per layer.
            module: Its weights are looked for; it is not changed.

        Raises:
            FileNotFoundError: A file is not there.
            ValueError: A file cannot be read safely or does not fit; the message names the file.
        """
        paths = [path] if isinstance(path, (str, os.PathLike)) else list(path)
        inventory = find_every_weight(module)
        return cls.from_measured(measure_checkpoints(paths, module, inventory), inventory)

    @classmethod
    def from_measured(
        cls,
        rows: Sequence[RecipeLayer],
        inventory: WeightInventory,
        optimizers: Sequence[tuple[str, float]] = (),
        settings: Sequence[tuple[str, Any]] = (),
    ) -> InitRecipe:
        """Keep variances that were measured.

        Args:
            rows: V of every weight that takes part.
            inventory: Those weights, and what was left out.
            optimizers: Optimizer class and learning rate, one pair per parameter group.
            settings: Pairs of setting and value of the callback, for the reader.
        """
        return cls(
            layers=tuple(rows),
            left_out=tuple(left.name for left in inventory.left_out),
            settings=tuple(sorted((name, _storable(value)) for name, value in settings)),
            optimizers=tuple((name, float(rate)) for name, rate in optimizers),
            library_versions=tuple(sorted(_library_versions().items())),
        )

    @classmethod
    def from_json(cls, text: str) -> InitRecipe:
        """Read a recipe from text.

        Raises:
            ValueError: The text is no recipe; the message names the field.
        """
        return cls(*recipe_format.parse(recipe_format.strict_json(text)))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> InitRecipe:
        """Read a recipe from a file. Nothing in the file is trusted or executed.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: The file is no recipe; the message names the file and the field.
        """
        try:
            return cls.from_json(recipe_format.read_text(path))
        except ValueError as error:
            raise ValueError(f"{os.fspath(path)}: {error}") from None

    def to_json(self) -> str:
        """Write as JSON text, indented and with sorted keys."""
        return json.dumps(_content(self), indent=2, sort_keys=True, allow_nan=False) + "\n"

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write to a file at once or not at all: a crash leaves the old file or the new one.

        Args:
            path: Where to; missing folders are made, and a symbolic link is followed.
        """
        target = Path(os.path.realpath(path))
        target.parent.mkdir(parents=True, exist_ok=True)
        # Unforeseeable and made anew: a link that someone planted there is not followed.
        temporary = target.with_name(f".{target.name}.{secrets.token_hex(8)}.tmp")
        try:
            with temporary.open("x", encoding="utf-8") as file:
                file.write(self.to_json())
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, target)
        finally:
            with contextlib.suppress(FileNotFoundError):
                temporary.unlink()

    @property
    def fingerprint(self) -> str:
        """Digest of the layers' names and shapes: equal for models that the recipe fits."""
        return recipe_format.fingerprint((layer.name, layer.shape) for layer in self.layers)

    def apply(self, model: nn.Module, seed: int = 0, by_width: bool = False) -> list[str]:
        """Draw the first weights of a model, in place; layers that the probe kept stay as they are.

        Args:
            model: Must have the recipe's layers; one attribute that holds the network (`model.`,
                `net.`) may stand in front of the names on one side. It is checked completely before
                any weight is touched.
            seed: Seed of the draw; every layer has its own stream.
            by_width: Whether to transfer to another width: layers may have another shape, and
                sigma0^2 is scaled so that sigma0^2 * fan_in stays what it was. Embeddings and bare
                matrices, which have no fan-in, keep sigma0^2. By default shapes must be equal.

        Returns:
            Names of the layers that were drawn.

        Raises:
            ValueError: Names or shapes differ; the message names the layers.
        """
        return self.apply_to(model, find_every_weight(model), seed, by_width)

    def apply_to(
        self, model: nn.Module, inventory: WeightInventory, seed: int, by_width: bool
    ) -> list[str]:
        """Do what `apply` does with weights that were found before.

        Layers that patterns left out of the inventory keep their weights.
        """
        draws: list[tuple[Weight, float]] = []
        for layer, weight in fitting_layers(self.layers, self.left_out, inventory, by_width):
            if layer.action == "redrawn":
                variance = layer.sigma0_squared
                if by_width and layer.fan_in is not None and weight.knows_fan_in:
                    variance *= layer.fan_in / weight.fan_in
                draws.append((weight, math.sqrt(variance)))
        refuse_what_no_weight_can_hold(model, draws)
        for weight, std in draws:
            fill_normal_(model, weight, std, seed)
        return [weight.name for weight, _ in draws]


def _content(recipe: InitRecipe) -> dict[str, Any]:
    return {
        "format_version": FORMAT_VERSION,
        "fingerprint": recipe.fingerprint,
        "layers": [dict(vars(layer)) for layer in recipe.layers],
        "left_out": recipe.left_out,
        "settings": dict(recipe.settings),
        "optimizers": [{"name": name, "learning_rate": lr} for name, lr in recipe.optimizers],
        "library_versions": dict(recipe.library_versions),
    }


def _storable(value: Any) -> Any:
    """Return a setting as the file can hold it: settings are for the reader, so text will do."""
    value = plain(value)
    try:
        checked(value, recipe_format.Setting, "setting")
    except ValueError:
        return str(value)[:1000]
    return value


def _library_versions() -> dict[str, str]:
    versions = {}
    for library in _LIBRARIES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[library] = metadata.version(library)
    return versions
