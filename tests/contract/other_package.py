"""The contract's own files once more, written for `pytorch_lightning`.

Both packages hold the same code, so a scenario for one becomes a scenario for the other when the
names in its import lines are exchanged.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import ModuleType

_NAMES = {"lightning.pytorch": "pytorch_lightning", "lightning.fabric": "lightning_fabric"}
_OURS = re.compile(r"\b(contract_(?:harness|models|record|registry|scenarios_\w+))\b")


def under_the_other_name(name: str) -> ModuleType:
    """The test module ``name``, and what it imports of this folder, for `pytorch_lightning`."""
    other = f"other_{name}"
    if other not in sys.modules:
        source = (Path(__file__).parent / f"{name}.py").read_text()
        for imported in sorted(set(_OURS.findall(source)) - {name}):
            under_the_other_name(imported)
        for one, replacement in _NAMES.items():
            source = source.replace(one, replacement)
        source = _OURS.sub(r"other_\1", source)
        assert "lightning.pytorch" not in source
        module = sys.modules[other] = ModuleType(other)
        module.__file__ = f"{name}.py for pytorch_lightning"
        exec(compile(source, module.__file__, "exec"), vars(module))
    return sys.modules[other]
