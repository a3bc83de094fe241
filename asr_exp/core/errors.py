"""The errors a user can mend: what is wrong, and what to type next."""

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """A mistake that the user can mend. The message is whole sentences that name the key or the file; it is
    printed without a traceback, and the process ends with exit status 2.
    """


class Unreachable(UserError):
    """A UserError of a file that is only on the Hugging Face hub, when the hub cannot be reached."""


class Stopped(Exception):
    """The run has stopped after a signal such as SIGTERM, with its state saved. The process ends with status
    128 + `signal`.
    """

    def __init__(self, message: str, signal: int):
        super().__init__(message)
        self.signal = signal


class Pruned(Exception):
    """The pruner of a sweep has ended the run, which does worse than others; its state is saved. The process
    ends with status 0.
    """


class SmallerPasses(Exception):
    """A forward pass of a run with sharded weights (FSDP) did not fit into memory. The size that may fit is
    written down, and all ranks have to start again from the last checkpoint. The process ends with status 75.
    """


class RankLost(Exception):
    """Another rank of the run has ended, and this one cannot go on without it. The process ends with status
    1.
    """


def nearest(name: str, choices: Iterable[str]) -> str:
    """' Did you mean X?' for the choice nearest to `name`, or '' where nothing is near."""
    lower = {str(c).lower(): str(c) for c in choices}
    close = difflib.get_close_matches(str(name).lower(), lower, n=1, cutoff=0.5)
    return f" Did you mean {lower[close[0]]!r}?" if close else ""
