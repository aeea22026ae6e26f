# SPDX-License-Identifier: Apache-2.0
"""What ends a command from outside: Ctrl-C and SIGTERM."""

import signal
from types import FrameType


class Stop:
    """SIGTERM ends a command as Ctrl-C does: what was begun is removed. number: the signal's."""

    def __init__(self) -> None:
        self.number: int = signal.SIGINT
        self._before = signal.signal(signal.SIGTERM, self._terminate)

    def restore(self) -> None:
        """As it was before."""
        signal.signal(signal.SIGTERM, self._before)

    @property
    def word(self) -> str:
        """For the message."""
        return "interrupted" if self.number == signal.SIGINT else "terminated"

    def _terminate(self, number: int, frame: FrameType | None) -> None:
        self.number = number
        raise KeyboardInterrupt
