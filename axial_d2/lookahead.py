"""Lookahead around any optimizer, for weights that are loaded late and for exact resuming."""

from __future__ import annotations

from typing import Any

import pytorch_optimizer
import torch


class Lookahead(pytorch_optimizer.Lookahead):
    """After every ``steps`` steps the slow weights go ``alpha`` of the way to the fast ones.

    The fast weights are the model's own and are moved by the inner optimizer; they continue from
    the slow ones (Zhang et al., "Lookahead Optimizer: k steps forward, 1 step back", NeurIPS 2019,
    algorithm 1). The inner optimizer's moments are kept. A parameter without a gradient in the
    last step of a cycle waits for the end of the next one.

    Evaluation and the ``model`` of a checkpoint have the weights of the moment: the slow ones
    after a whole number of cycles (of steps that no loss scaler skipped), the fast ones within a
    cycle. The optimizer's state holds the slow weights and the position in the cycle beside the
    inner optimizer's state, so that resuming continues exactly, within a cycle too. ``steps`` and
    ``alpha`` are never taken from a checkpoint.

    Args:
        optimizer: the inner optimizer, whose parameter groups are shared.
        steps: k, 1 or more; default 5. Zhang et al.'s own code and pytorch-optimizer have 5.
        alpha: α in [0, 1]; 1 is the inner optimizer, 0 stays at the start; default 0.5, as in
            pytorch-optimizer (Zhang et al.'s own code: 0.8).

    Raises:
        ValueError: ``steps`` or ``alpha`` out of range; on loading, a state without Lookahead.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, steps: int = 5, alpha: float = 0.5):
        if steps < 1:
            raise ValueError(f"steps is {steps}; SOLVER.LOOKAHEAD.STEPS must be 1 or more.")
        if not 0 <= alpha <= 1:
            raise ValueError(f"alpha is {alpha}; SOLVER.LOOKAHEAD.ALPHA must be in [0, 1].")
        super().__init__(optimizer, k=steps)
        # Not given to the library, which refuses 1.
        self.alpha = self.defaults["lookahead_alpha"] = alpha
        # The library takes the slow weights here; Detectron2 loads MODEL.WEIGHTS later, and the
        # first cycle would end half-way back at the random initial weights.
        self.state.clear()

    def step(self, closure: Any = None) -> Any:
        for group in self.param_groups:
            self.init_group(group)  # takes the slow weights that are not there yet
        return super().step(closure)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if "lookahead_state" not in state:
            raise ValueError(
                "The checkpoint to resume from was trained without Lookahead: set "
                "SOLVER.LOOKAHEAD.ENABLED False, or start anew from its weights (MODEL.WEIGHTS, "
                "without --resume)."
            )
        if state["lookahead_state"]:
            super().load_state_dict(state)
            parameters = [p for group in self.param_groups for p in group["params"]]
            assert all(p in self.state for p in parameters), "pytorch-optimizer is older than 4.0"
        else:  # saved before the first step, which the library takes for damaged
            self.optimizer.load_state_dict(state["base_optimizer"])
            self.state.clear()
