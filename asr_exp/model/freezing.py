"""Which parameters are trained."""

import fnmatch
from collections.abc import Sequence
from typing import Any

from asr_exp.core.errors import UserError, nearest


def freeze(network: Any, front_end: bool, patterns: Sequence[str]) -> None:
    """Exclude parameters from training: the convolutional front end, and those whose names match a pattern.

    Raises UserError for a pattern that matches no name.
    """
    if front_end:
        network.freeze_feature_encoder()
    parameters = dict(network.named_parameters())
    for pattern in patterns:
        names = fnmatch.filter(parameters, pattern)
        if not names:
            raise UserError(
                f"model.freeze: no parameter is named like {pattern!r}.{nearest(pattern, parameters)}"
            )
        for name in names:
            parameters[name].requires_grad_(False)
