"""What all tests share: components registered first, and one seed."""

from __future__ import annotations

import axial_d2  # noqa: F401  bridges an old Detectron2, so it comes before the rest
import pytest
import torch


@pytest.fixture(autouse=True)
def _same_random_numbers() -> None:
    torch.manual_seed(0)
