"""Blocks that torch has compiled: what a block does between its matrix products is then one pass over memory.

One block is compiled and serves all layers, so it takes seconds whatever the depth. Each shape has code of its own,
never code for any shape: which shapes came first in a process must not decide the bits of a run that resumes.
"""

from contextlib import AbstractContextManager

import torch
from torch import nn

from core.models.transformer import Transformer

MOST_SHAPES = 64


def compile_blocks(model: Transformer) -> None:
    """From now on, the blocks of `model` are compiled for each shape that comes."""
    # One thread: no pool of processes that would outlive a trainer, for a handful of kernels.
    torch._inductor.config.compile_threads = 1
    torch._dynamo.config.recompile_limit = MOST_SHAPES
    for stack in model.modules():
        if isinstance(stack, nn.ModuleList):
            for block in stack:
                block.compile(dynamic=False)


def not_now() -> AbstractContextManager[object]:
    """Within, blocks run as they are written."""
    stance: AbstractContextManager[object] = torch.compiler.set_stance("force_eager")
    return stance
