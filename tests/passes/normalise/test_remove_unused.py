# SPDX-License-Identifier: Apache-2.0
"""Identities, dead nodes and dead constants go."""

import pytest

from qcompile.passes.normalise.remove_unused import RemoveUnused
from tests.passes.graphs import assert_left_alone, assert_rewritten


def test_dead_chains() -> None:
    assert_rewritten(
        RemoveUnused(),
        """f (float[2] x) => (float[2] y) <float[2] a = {1, 2}>
        { b = Neg (x)   c = Add (a, b)   y = Relu (x) }""",
        "f (float[2] x) => (float[2] y) { y = Relu (x) }",
    )


def test_identity_before_an_output_that_is_also_read() -> None:
    assert_rewritten(
        RemoveUnused(),
        """f (float[2] x) => (float[2] y, float[2] z)
        { a = Relu (x)   y = Identity (a)   z = Neg (a) }""",
        "f (float[2] x) => (float[2] y, float[2] z) { y = Relu (x)   z = Neg (y) }",
    )


@pytest.mark.parametrize(
    "text",
    [
        "f (float[2] x) => (float[2] y) { y = Identity (x) }",
        """f (float[2] x) => (float[2] y, float[2] z)
        { z = Relu (x)   y = Identity (z) }""",
        "f (float[2] x, float[3] unused) => (float[2] y) { y = Relu (x) }",
        "f (float[2] x) => (float[2] x2, float[2] y) <float[2] x2 = {1, 2}> { y = Relu (x) }",
    ],
    ids=["input to output", "two outputs", "an unread input", "a constant output"],
)
def test_left_alone(text: str) -> None:
    assert_left_alone(_OnlyGraph(), text)


class _OnlyGraph(RemoveUnused):
    """RemoveUnused, which also drops the opset imports that the test's header has too many of."""

    def call(self, model):  # type: ignore[no-untyped-def]
        for domain in ("com.qcompile", "com.microsoft"):
            model.graph.opset_imports.pop(domain)
        return super().call(model)
