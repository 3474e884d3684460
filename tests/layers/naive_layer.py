"""AxialAttention once more: whole logit maps, and every batch norm applied to what it normalises.

Written from the paper's facts; of ``axial_d2`` it sees nothing but the names and values of the
parameters. Shape letters: S lines (columns for the height axis, rows for the width axis) of all
images, N heads, L positions, M (line, query, key) triples inside the window.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

State = dict[str, Tensor]


def copy_state(layer: nn.Module) -> State:
    """Parameters as fresh leaves that want gradients, buffers as copies."""
    state = {
        name: parameter.detach().clone().requires_grad_()
        for name, parameter in layer.named_parameters()
    }
    state.update({name: buffer.clone() for name, buffer in layer.named_buffers()})
    return state


def naive_axial_attention(
    x: Tensor,
    state: State,
    *,
    axis: str,
    num_heads: int,
    key_channels: int,
    span: int,
    training: bool,
) -> Tensor:
    """The layer's output; in training, running statistics in ``state`` are updated in place."""

    def batch_norm(values: Tensor, name: str) -> Tensor:
        return F.batch_norm(
            values,
            state[f"{name}.running_mean"],
            state[f"{name}.running_var"],
            state[f"{name}.weight"],
            state[f"{name}.bias"],
            training,
            momentum=0.1,
            eps=1e-5,
        )

    qkv = batch_norm(torch.einsum("bchw,dc->bdhw", x, state["qkv.weight"][:, :, 0, 0]), "qkv.norm")
    images, _, height, width = qkv.shape
    # Every line of every image, [S, L, channels].
    if axis == "height":
        lines = [qkv[b, :, :, w].t() for b in range(images) for w in range(width)]
    else:
        lines = [qkv[b, :, h, :].t() for b in range(images) for h in range(height)]
    lines = torch.stack(lines)
    length = lines.shape[1]

    def heads(first: int, last: int) -> Tensor:
        """[S, N, L, channels a head]; a head's channels lie together."""
        return torch.stack(lines[:, :, first:last].chunk(num_heads, dim=2), dim=1)

    values_end = lines.shape[2]
    query, key, value = (
        heads(0, key_channels),
        heads(key_channels, 2 * key_channels),
        heads(2 * key_channels, values_end),
    )
    last = state["query_table"].shape[0] - 1
    index = torch.tensor(
        [[min(max(j - i + last // 2, 0), last) for j in range(length)] for i in range(length)]
    )
    r_query, r_key, r_value = (state[f"{name}_table"][index] for name in ("query", "key", "value"))
    terms = [
        (query[:, :, :, None] * key[:, :, None]).sum(-1),
        (query[:, :, :, None] * r_query).sum(-1),
        (key[:, :, None] * r_key).sum(-1),
    ]  # [S, N, L, L] each

    half = (span - 1) // 2 if span else length
    inside = torch.tensor([[abs(j - i) <= half for j in range(length)] for i in range(length)])
    # Channels of the norm: every head's q·k, then every head's q·r, then every head's k·r.
    channels = [term[:, n][:, inside].flatten() for term in terms for n in range(num_heads)]
    normalised = batch_norm(torch.stack(channels, dim=1), "logit_norm")  # [M, 3N]
    head_logits = []
    for n in range(num_heads):
        logits = query.new_full((lines.shape[0], length, length), float("-inf"))
        summed = normalised[:, n] + normalised[:, num_heads + n] + normalised[:, 2 * num_heads + n]
        logits[:, inside] = summed.view(lines.shape[0], -1)
        head_logits.append(logits)
    weights = torch.stack(head_logits, dim=1).softmax(-1)  # [S, N, L, L]

    content = (weights[..., None] * value[:, :, None]).sum(3)
    position = (weights[..., None] * r_value).sum(3)

    def image(retrieved: Tensor) -> Tensor:
        """[S, N, L, V] → [B, N·V, H, W]."""
        columns = torch.cat(retrieved.unbind(1), dim=2)  # [S, L, N·V]
        columns = columns.view(images, -1, *columns.shape[1:])  # [B, lines, L, N·V]
        return columns.permute(0, 3, 2, 1) if axis == "height" else columns.permute(0, 3, 1, 2)

    out = batch_norm(torch.cat([image(content), image(position)], dim=1), "retrieved_norm")
    return out[:, : out.shape[1] // 2] + out[:, out.shape[1] // 2 :]
