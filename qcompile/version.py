# SPDX-License-Identifier: Apache-2.0
"""The version of this qcompile."""

VERSION = "0.1.0"
