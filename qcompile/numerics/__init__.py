# SPDX-License-Identifier: Apache-2.0
"""What every format and op means, in plain NumPy; docs/numerics.md gives each rule its id."""
