"""One Netron-ready file per pass, all sharing one file of weights, so that each is small."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType

import onnx_ir as ir

from bct_onnx.errors import UsageError
from bct_onnx.graph import save, tensor_messages
from bct_onnx.graph.atomic import Sink, TemporaryFolder

DATA = "weights.data"


class Snapshots:
    """Writes ``NN-pass.onnx`` files into a folder, which appears when the block ends, also after an error.

    Args:
        folder: The folder to make; None writes nothing.
        force: Replace an existing folder that holds snapshots.

    Raises:
        UsageError: The folder exists and may not be replaced.
    """

    def __init__(self, folder: Path | None, *, force: bool = False) -> None:
        self.folder = folder
        self._count = 0
        self._places: dict[int, tuple[ir.TensorProtocol, int]] = {}
        if folder is None or not folder.exists():
            return
        ours = folder.is_dir() and all(file.name == DATA or file.suffix == ".onnx" for file in folder.iterdir())
        if not (ours and (force or not any(folder.iterdir()))):
            fix = "replace it with --force" if ours else "choose another folder"
            raise UsageError("the folder for passes exists", where=str(folder), fix=fix)

    def __enter__(self) -> Snapshots:
        if self.folder is not None:
            parent = self.folder.absolute().parent
            if not parent.is_dir():
                raise UsageError(
                    "the folder for passes has no parent folder", where=str(parent), fix=f"mkdir -p '{parent}'"
                )
            self._holder = TemporaryFolder(parent, "passes")
            self._temporary = self._holder.__enter__() / "passes"
            self._temporary.mkdir()
            self._data = Sink(self._temporary / DATA)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.folder is None:
            return
        try:
            self._data.__exit__(kind, error, trace)
            if kind is None or issubclass(kind, Exception):  # interrupted: leave nothing behind
                if self.folder.exists():
                    self.folder.replace(self._temporary.with_name("replaced"))
                self._temporary.replace(self.folder)
        finally:
            self._holder.__exit__(kind, error, trace)

    def add(self, model: ir.Model, name: str) -> None:
        """Write the model as it is now; tensors that an earlier file already has are not written again."""
        if self.folder is None:
            return
        proto, pairs = save.serialize(model)
        for message, tensor in pairs:
            if tensor.nbytes <= save.KEPT_INSIDE:
                tensor_messages.embed(message, tensor)
            else:
                tensor_messages.refer(message, DATA, self._place(tensor), tensor.nbytes)
        path = self._temporary / f"{self._count:02d}-{name.replace(':', '.')}.onnx"
        path.write_bytes(proto.SerializeToString(deterministic=True))
        self._count += 1

    def _place(self, tensor: ir.TensorProtocol) -> int:
        """Offset of the tensor in the shared file; it is written there the first time it is seen."""
        if id(tensor) not in self._places:
            self._data.write(bytes(-self._data.size % save.PAGE))
            self._places[id(tensor)] = tensor, self._data.size
            tensor_messages.copy(tensor, self._data)
        return self._places[id(tensor)][1]
