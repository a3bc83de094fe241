"""The heads of attention: from the packed frames of a length group to a padded batch of it, and back.

On a CPU each way is one copy, and so is its gradient. By torch's operations there are three: to pad, to take
the heads apart, and to make the transposed keys contiguous.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch

from asr_exp.model.layout import LengthGroup


def split_heads(frames: torch.Tensor, group: LengthGroup, heads: int) -> torch.Tensor:
    """The group's (frames, channels) -> (rows, heads, longest, channels of a head), zeros after the end of an
    utterance.
    """
    if frames.device.type == "cpu":
        return _Split.apply(frames, group, heads)
    if group.inside is not None:
        padded = frames.new_zeros(group.rows * group.longest, frames.shape[1])
        frames = padded.index_copy(0, group.inside, frames)
    return frames.view(group.rows, group.longest, heads, -1).transpose(1, 2)


def merge_heads(padded: torch.Tensor, group: LengthGroup) -> torch.Tensor:
    """(rows, heads, longest, channels of a head) -> the group's (frames, channels)."""
    if padded.device.type == "cpu":
        return _Merge.apply(padded, group)
    merged = padded.transpose(1, 2).flatten(2).flatten(0, 1)
    return merged if group.inside is None else merged.index_select(0, group.inside)


class _Split(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, frames: torch.Tensor, group: LengthGroup, heads: int) -> torch.Tensor:
        ctx.group = group
        return _split(frames, group, heads)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:
        return _merge(gradient, ctx.group), None, None


class _Merge(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, padded: torch.Tensor, group: LengthGroup) -> torch.Tensor:
        ctx.group, ctx.heads = group, padded.shape[1]
        return _merge(padded, group)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:
        return _split(gradient, ctx.group, ctx.heads), None


def _split(frames: torch.Tensor, group: LengthGroup, heads: int) -> torch.Tensor:
    shape = group.rows, heads, group.longest, frames.shape[1] // heads
    padded = frames.new_empty(shape) if group.inside is None else frames.new_zeros(shape)
    for own, row in _rows(frames, padded, group.lengths):
        row.copy_(own)
    return padded


def _merge(padded: torch.Tensor, group: LengthGroup) -> torch.Tensor:
    frames = padded.new_empty(sum(group.lengths), padded.shape[1] * padded.shape[3])
    for own, row in _rows(frames, padded, group.lengths):
        own.copy_(row)
    return frames


def _rows(
    frames: torch.Tensor, padded: torch.Tensor, lengths: Sequence[int]
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Views of each utterance, (heads, frames, channels of a head), in both."""
    by_head = frames.unflatten(1, (padded.shape[1], -1)).transpose(0, 1)
    for own, row, length in zip(by_head.split(lengths, 1), padded, lengths, strict=True):
        yield own, row[:, :length]
