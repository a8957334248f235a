"""One transformer on several GPUs: Ulysses sequence parallelism (arXiv:2309.14509) over torch.distributed.

Every process has all weights and a share of the tokens. For attention, all-to-all exchanges trade a share of the tokens
of all heads for all tokens of a share of the heads, and back. Outside the blocks all processes compute the same.
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
from .block import JointAttention, TransformerArgs, run_blocks
from .transformer import CogVideoXTransformer


def share_tokens(transformer: CogVideoXTransformer) -> None:
    """Split the tokens of every forward pass over the processes of the default group.

    Each process holds a copy of the transformer, gets all inputs and returns the whole result. Inference only:
    gradients do not flow through the exchanges. ExVideoError if the heads cannot be divided by the processes.
    """
    ulysses, heads = _Ulysses(), transformer.config.width // transformer.config.head_dim
    if heads % ulysses.world:
        counts = [str(count) for count in range(2, heads + 1) if heads % count == 0]
        raise ExVideoError(
            f"{ulysses.world} processes cannot share the {heads} heads of this model; start torchrun with "
            f"--nproc-per-node {' or '.join(counts) or 1}."
        )
    transformer.run_blocks = ulysses.run_blocks
    for module in transformer.modules():
        if isinstance(module, JointAttention):
            module.attention, module.head_multiple = ulysses.across(module.attention), ulysses.world


class _Ulysses:
    """Token split and exchanges of one transformer."""

    def __init__(self) -> None:
        self.rank, self.world = dist.get_rank(), dist.get_world_size()
        self.counts: list[int] = []  # tokens of each process in the current forward pass

    def run_blocks(self, blocks: Sequence[nn.Module], x_LBC: Tensor, args: TransformerArgs, first: int) -> Tensor:
        """`block.run_blocks` on this process's tokens; takes and returns all tokens."""
        bounds = [len(x_LBC) * rank // self.world for rank in range(self.world + 1)]
        self.counts = [stop - start for start, stop in pairwise(bounds)]
        mine = slice(*bounds[self.rank : self.rank + 2])
        args = replace(
            args,
            tokens=max(self.counts),
            text_tokens=max(0, args.text_tokens - mine.start),
            freqs_cis=args.freqs_cis[mine],
        )
        x_lBC = run_blocks(blocks, x_LBC[mine], args, 0)
        return self._all_tokens(x_lBC.repeat(self.world, 1, 1))[first:]

    def across(self, attention: Attention) -> Attention:
        """Attention from this process's tokens to those of all processes."""

        def attend(q_BNlD: Tensor, k_BNlD: Tensor, v_BNlD: Tensor) -> Tensor:
            q_BNLD, k_BNLD, v_BNLD = rearrange(
                self._all_tokens(rearrange([q_BNlD, k_BNlD, v_BNlD], "S B (P N) l D -> (P l) S B N D", P=self.world)),
                "L S B N D -> S B N L D",
            )
            out_LBND = rearrange(attention(q_BNLD, k_BNLD, v_BNLD), "B N L D -> L B N D")
            return rearrange(self._own_tokens(out_LBND), "(P l) B N D -> B (P N) l D", P=self.world)

        return attend

    def _all_tokens(self, sent: Tensor) -> Tensor:
        """All-to-all of [P * l, ...], l items for each process, to [L, ...]."""
        return _all_to_all(sent, [self.counts[self.rank]] * self.world, self.counts)

    def _own_tokens(self, sent: Tensor) -> Tensor:
        """All-to-all of [L, ...], each process its own tokens, to [P * l, ...]; the inverse of `_all_tokens`."""
        return _all_to_all(sent, self.counts, [self.counts[self.rank]] * self.world)


def _all_to_all(sent: Tensor, sizes: list[int], received_sizes: list[int]) -> Tensor:
    received = sent.new_empty(sum(received_sizes), *sent.shape[1:])
    dist.all_to_all_single(received, sent.contiguous(), received_sizes, sizes)
    return received
