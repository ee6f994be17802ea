"""Prefix language modelling: the beginning of a text is read in both directions, the rest is learned left to right.

    L = - sum_{t >= b} log p(x_t | x_<b in both directions, x_b, …, x_{t-1})

The border b of a plain text is drawn uniformly anew each time the text is shown, from its second token to its last; of
a prompt with its completion, the prompt is the prefix. With b at the second token it is causal language modelling.
Raffel et al. 2019, arXiv:1910.10683, sections 3.2.1 (attention) and 3.2.3 (random border). Label smoothing and z-loss:
`core.loss.TokenObjective`.
"""

from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from core.data.draws import integers
from core.data.examples import Document, PromptCompletion
from core.data.packing import Ints
from core.loss import Specials, TokenObjective


class PrefixLM(TokenObjective):
    """Pretraining a decoder that reads its prompt in both directions."""

    kind: Literal["prefix_lm"] = "prefix_lm"

    consumes: ClassVar[tuple[type, ...]] = (Document, PromptCompletion)
    sees_prefix: ClassVar[bool] = True

    def corrupt(
        self,
        ids: Ints,
        targets: Ints,
        weights: NDArray[np.float32],
        random: np.random.Generator,
        specials: Specials,
    ) -> None:
        """Learn only what stands behind the border. What begins with something that is not learned has one already."""
        if weights[0] > 0:
            weights[: integers(random, 1, len(weights))[0]] = 0.0
