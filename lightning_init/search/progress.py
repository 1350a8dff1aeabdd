"""The probe's progress bar."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import Trainer


class ProbeProgress:
    """A bar of optimizer steps with a remark beside it; silent where bars are off.

    Args:
        trainer: Its progress bar callback and rank decide whether anything is shown.
        total: Most optimizer steps; None where they are known later, see `expect`.
        description: What the steps are for.
    """

    def __init__(
        self,
        trainer: Trainer,
        total: int | None = None,
        description: str = "Probing weight variance",
    ) -> None:
        bar = trainer.progress_bar_callback
        self._shown = (
            trainer.is_global_zero and bar is not None and not getattr(bar, "is_disabled", False)
        )
        self._total = total
        self._description = description
        self._bar: Any = None

    def __enter__(self) -> ProbeProgress:
        if self._shown:
            from tqdm.auto import tqdm  # a dependency of Lightning's

            self._bar = tqdm(total=self._total, desc=self._description, leave=False)
        return self

    def expect(self, total: int) -> None:
        """Set the most optimizer steps."""
        if self._bar is not None:
            self._bar.reset(total=total)

    def advance(self, step: int, remark: str) -> None:
        """Show that ``step`` optimizer steps are done."""
        if self._bar is not None:
            self._bar.set_postfix_str(remark, refresh=False)
            self._bar.update(step - self._bar.n)

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()
