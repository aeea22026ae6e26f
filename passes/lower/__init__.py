# SPDX-License-Identifier: Apache-2.0
"""Passes of the stage lower; their order is in qcompile/passes/__init__.py."""
