"""One transformer on several GPUs: Ulysses sequence parallelism (arXiv:2309.14509) over torch.distributed.

Every process has all weights and some of the tokens; for attention they exchange some tokens of all heads for all
tokens of some heads, and back. Outside of the blocks each does the same as the others.
Shapes: L tokens, l of them in this process; P processes, B clips, N heads, D channels of a head, C of a token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import torch.distributed as dist
from einops import rearrange
from torch import Tensor, nn

from ...errors import ExVideoError
from ...nn.attention import Attention
from .block import Conditions, JointAttention, in_turn
from .transformer import CogVideoXTransformer


def share_tokens(transformer: CogVideoXTransformer) -> None:
    """Have all processes of the default group compute together, each with its copy of the transformer and all inputs.

    For inference: gradients do not find their way back. All get the whole result.

    Raises:
        ExVideoError: the heads cannot be shared out.
    """
    ulysses, heads = _Ulysses(), transformer.config.width // transformer.config.head_dim
    if heads % ulysses.world:
        counts = [str(count) for count in range(2, heads + 1) if heads % count == 0]
        raise ExVideoError(
            f"{ulysses.world} processes cannot share the {heads} heads of this model; start torchrun with "
            f"--nproc-per-node {' or '.join(counts) or 1}."
        )
    transformer.run = ulysses.run
    for module in transformer.modules():
        if isinstance(module, JointAttention):
            module.attention, module.heads_step = ulysses.across(module.attention), ulysses.world


class _Ulysses:
    """What the blocks of one transformer share.

    Attributes:
        rank: number of this process.
        world: P.
        counts: tokens of each process in the call that runs.
    """

    def __init__(self) -> None:
        self.rank, self.world = dist.get_rank(), dist.get_world_size()
        self.counts: list[int] = []

    def run(self, blocks: Sequence[nn.Module], x_LBC: Tensor, on: Conditions, first: int) -> Tensor:
        """See `block.in_turn`; all tokens go in and come out."""
        bounds = [len(x_LBC) * rank // self.world for rank in range(self.world + 1)]
        self.counts = [stop - start for start, stop in pairwise(bounds)]
        mine = slice(*bounds[self.rank : self.rank + 2])
        on = replace(on, tokens=max(self.counts), words=max(0, on.words - mine.start), freqs_cis=on.freqs_cis[mine])
        x_lBC = in_turn(blocks, x_LBC[mine], on, 0)
        return self._all_tokens(x_lBC.repeat(self.world, 1, 1))[first:]

    def across(self, attention: Attention) -> Attention:
        """Attention of these tokens to those of all processes."""

        def exchanged(q_BNlD: Tensor, k_BNlD: Tensor, v_BNlD: Tensor) -> Tensor:
            q_BNLD, k_BNLD, v_BNLD = rearrange(
                self._all_tokens(rearrange([q_BNlD, k_BNlD, v_BNlD], "S B (P N) l D -> (P l) S B N D", P=self.world)),
                "L S B N D -> S B N L D",
            )
            out_LBND = rearrange(attention(q_BNLD, k_BNLD, v_BNLD), "B N L D -> L B N D")
            return rearrange(self._own_tokens(out_LBND), "(P l) B N D -> B (P N) l D", P=self.world)

        return exchanged

    def _all_tokens(self, sent: Tensor) -> Tensor:
        """[P * l, ...], l of them for each process, to [L, ...] from all."""
        return _exchanged(sent, [self.counts[self.rank]] * self.world, self.counts)

    def _own_tokens(self, sent: Tensor) -> Tensor:
        """[L, ...], to each process its tokens, to [P * l, ...] from all."""
        return _exchanged(sent, self.counts, [self.counts[self.rank]] * self.world)


def _exchanged(sent: Tensor, sizes: list[int], received_sizes: list[int]) -> Tensor:
    received = sent.new_empty(sum(received_sizes), *sent.shape[1:])
    dist.all_to_all_single(received, sent.contiguous(), received_sizes, sizes)
    return received
