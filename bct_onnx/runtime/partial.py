"""Some values of a model, computed without the rest of it."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir
import onnxruntime as ort
from onnx_ir.passes.common import RemoveUnusedNodesPass

from bct_onnx.graph import protobuf
from bct_onnx.graph.names import values_named
from bct_onnx.graph.neighbours import outputs_of
from bct_onnx.graph.save import serialize
from bct_onnx.runtime.feeds import Feeds
from bct_onnx.runtime.session import Message, run, runnable, session


class Partial:
    """A copy of a model in ONNX Runtime that computes what leads to some of its values, and nothing else.

    Args:
        model: The model; it is not changed.
        names: Values of its main graph that nodes make.

    Raises:
        TargetError: ONNX Runtime cannot load the copy.
    """

    def __init__(self, model: ir.Model, names: Sequence[str]) -> None:
        self._names = list(dict.fromkeys(names))
        self._session: ort.InferenceSession | None = None
        if not self._names:
            return
        copy = model.clone()
        copy.graph.outputs[:] = values_named(outputs_of(copy.graph), self._names)
        RemoveUnusedNodesPass()(copy)
        proto, pairs = serialize(runnable(copy))
        del proto.graph.output[:]
        proto.graph.output.extend(protobuf.undeclared(self._names))
        self._session = session(Message(proto, pairs))

    def __call__(self, feeds: Feeds) -> Feeds:
        """The values by name, for one batch.

        Raises:
            TargetError: ONNX Runtime cannot run the copy.
        """
        if self._session is None:
            return {}
        return dict(zip(self._names, run(self._session, feeds, self._names), strict=True))
