# SPDX-License-Identifier: Apache-2.0
"""The project's own two models and their data (see models/README.md); not installed."""
