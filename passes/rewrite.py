# SPDX-License-Identifier: Apache-2.0
"""NodePass: a rewrite that looks at one node at a time and says why it leaves one alone."""

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any

import onnx_ir as ir


@dataclass(frozen=True)
class Refusal:
    """Why a node that looked right was left alone."""

    node: str
    reason: str


class NodePass(ir.passes.InPlacePass):
    """One rewrite in one file. A subclass gives `op_types`, `match` and `rewrite`.

    `match(node)` returns None (not a candidate), a str (a candidate left alone: the reason), or
    what `rewrite` needs. Nodes are visited in graph order; one that an earlier rewrite removed is
    skipped. Refusals are kept in `refusals`.
    """

    stage = ""
    op_types: tuple[str, ...] = ()
    domain = ""

    def __init__(self) -> None:
        super().__init__()
        self.refusals: list[Refusal] = []

    @property
    def name(self) -> str:
        """The module's file name, which is also the flag's and the test's."""
        return type(self).__module__.rsplit(".", 1)[-1]

    def __repr__(self) -> str:
        return self.name

    @abstractmethod
    def match(self, node: ir.Node) -> Any:
        """None, a reason, or what `rewrite` needs."""

    @abstractmethod
    def rewrite(self, node: ir.Node, found: Any) -> None:
        """Change the graph round the node."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Visit every node once."""
        modified = False
        for node in list(model.graph):
            if node.graph is None or node.op_type not in self.op_types:
                continue
            if node.domain not in (self.domain, self.domain or "ai.onnx"):
                continue
            found = self.match(node)
            if isinstance(found, str):
                self.refusals.append(Refusal(node.name or node.op_type, found))
            elif found is not None:
                self.rewrite(node, found)
                modified = True
        for domain in {node.domain for node in model.graph} - {"", "ai.onnx"}:
            model.opset_imports.setdefault(domain, 1)
        return ir.passes.PassResult(model, modified)
