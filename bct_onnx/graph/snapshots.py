"""One Netron-ready file per pass that changed the model, sharing one file of weights, and an index of all passes."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType

import onnx_ir as ir

from bct_onnx.errors import UsageError
from bct_onnx.graph import save, tensor_messages
from bct_onnx.graph.atomic import Sink, TemporaryFolder

DATA = "weights.data"
INDEX = "index.md"

_HEAD = (
    "The model after every pass that changed it. Open the files with https://netron.app.",
    "",
    "| | pass | what it did |",
    "|---|---|---|",
)


class Snapshots:
    """Writes ``NN-pass.onnx`` files and an index into a folder, which appears when the block ends, also after an error.

    Args:
        folder: The folder to make; None writes nothing.
        force: Replace an existing folder that holds snapshots.

    Raises:
        UsageError: The folder exists and may not be replaced.
    """

    def __init__(self, folder: Path | None, *, force: bool = False) -> None:
        self.folder = folder
        self._lines: list[str] = []
        self._last = b""
        self._places: dict[int, tuple[ir.TensorProtocol, int]] = {}
        if folder is None or not folder.exists():
            return
        ours = folder.is_dir() and all(map(_is_ours, folder.iterdir()))
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
            (self._temporary / INDEX).write_text("\n".join([*_HEAD, *self._lines]) + "\n", encoding="utf-8")
            if kind is None or issubclass(kind, Exception):  # interrupted: leave nothing behind
                if self.folder.exists():
                    self.folder.replace(self._temporary.with_name("replaced"))
                self._temporary.replace(self.folder)
        finally:
            self._holder.__exit__(kind, error, trace)

    def add(self, model: ir.Model, name: str, done: str = "") -> None:
        """Write the model as it is now, unless it is as it was; tensors that an earlier file has are not written again.

        Args:
            model: After the pass.
            name: Of the pass.
            done: What the index says of it.
        """
        if self.folder is None:
            return
        proto, pairs = save.serialize(model)
        for message, tensor in pairs:
            if tensor.nbytes <= save.KEPT_INSIDE:
                tensor_messages.embed(message, tensor)
            else:
                tensor_messages.refer(message, DATA, self._place(tensor), tensor.nbytes)
        written = proto.SerializeToString(deterministic=True)
        number, title = f"{len(self._lines):02d}", name
        if written != self._last:
            path = self._temporary / f"{number}-{name.replace(':', '.')}.onnx"
            path.write_bytes(written)
            self._last, title = written, f"[{name}]({path.name})"
        self._lines.append(f"| {number} | {title} | {done} |")

    def _place(self, tensor: ir.TensorProtocol) -> int:
        """Offset of the tensor in the shared file; it is written there the first time it is seen."""
        if id(tensor) not in self._places:
            self._data.write(bytes(-self._data.size % save.PAGE))
            self._places[id(tensor)] = tensor, self._data.size
            tensor_messages.copy(tensor, self._data)
        return self._places[id(tensor)][1]


def _is_ours(file: Path) -> bool:
    return file.name in (DATA, INDEX) or file.suffix == ".onnx"
