# SPDX-License-Identifier: Apache-2.0
"""The meaning of every format and op in plain NumPy, one file an op; docs/numerics.md gives each rule its id."""
