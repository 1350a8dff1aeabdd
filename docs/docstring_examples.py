"""Lets the reference show what it cannot read off the source: examples, and shared arguments."""

from __future__ import annotations

import inspect
import pydoc
import re
from typing import Any

import griffe


class RunTimeDocstrings(griffe.Extension):
    """Renames `Example:`, and takes a docstring that is put together at run time from there."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Called for every object that is loaded."""
        if obj.docstring is not None:
            text = obj.docstring.value
            if "**settings:" in text:
                found = pydoc.locate(obj.path)
                text = inspect.getdoc(found) or text
            obj.docstring.value = re.sub(r"^Example:$", "Examples:", text, flags=re.MULTILINE)
