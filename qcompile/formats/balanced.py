# SPDX-License-Identifier: Apache-2.0
"""balanced2: −2, −1, 0, 1 and 2, the bit balance of ABQ-LLM (Zeng et al. 2024, section 3.4, "W2*").

Two bits have four levels, so one side of 0 has one more than the other; a fifth level gives both
sides two. The paper keeps three planes of a bit for its engine. Here the index has three bits, too,
of which log2 5 = 2.32 are used, and 2.33 where layout n16k4q/1 can hold it; indices 5 to 7 repeat 2
and are never written.
"""

from qcompile.formats.format import Format

BALANCED = Format("balanced2", 3, is_signed=True, table=(-2, -1, 0, 1, 2, 2, 2, 2))
