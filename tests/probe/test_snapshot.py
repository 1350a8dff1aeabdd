"""Each capture is put back."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim import SGD
from torch.optim.lr_scheduler import StepLR

from lightning_init.probe import snapshot


def draws() -> tuple[float, float, float]:
    return float(torch.rand(())), float(np.random.rand()), random.random()


def test_random_streams_are_put_back_also_after_an_error() -> None:
    restore = snapshot.capture_random_state()
    first = draws()
    restore()
    assert draws() == first
    restore()
    with pytest.raises(KeyError):
        fails_within()
    assert draws() == first


def fails_within() -> None:
    with snapshot.preserved_random_state():
        draws()
        raise KeyError


def test_attributes_are_put_back_added_and_deleted_ones_too() -> None:
    holder = nn.Module()
    holder.kept, holder.deleted = [1], 2
    restore = snapshot.capture_attributes(holder)
    kept = holder.kept
    holder.added, holder.kept = 1, []
    del holder.deleted
    restore()
    assert (holder.kept, holder.deleted, hasattr(holder, "added")) == ([1], 2, False)
    assert holder.kept is kept


def test_groups_that_a_scheduler_changed_are_put_back() -> None:
    optimizer = SGD([nn.Parameter(torch.ones(1))], lr=0.5)
    restore = snapshot.capture_optimizers([optimizer])
    StepLR(optimizer, 1)
    optimizer.param_groups[0]["lr"] = 3.0
    restore()
    assert optimizer.param_groups[0]["lr"] == 0.5
    assert "initial_lr" not in optimizer.param_groups[0]
    assert "step" not in vars(optimizer)
