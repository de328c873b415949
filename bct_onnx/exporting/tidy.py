"""Remove what exporters leave behind: paths of the exporting machine, formulas in place of dimension names."""

from __future__ import annotations

import onnx_ir as ir

from bct_onnx.exporting.checkpoint import AXES, TRACED, Checkpoint


def tidy(model: ir.Model, source: Checkpoint) -> None:
    """Remove source lines and stack traces, and give the dynamic dimensions of the outputs readable names, in place."""
    forget_source_lines(model)
    _name_output_axes(model.graph, source)


def forget_source_lines(model: ir.Model) -> None:
    """File paths and line numbers differ from one machine to the next, so they would also change the bytes."""
    scopes: tuple[ir.Graph | ir.Function, ...] = (model.graph, *model.functions.values())
    for scope in scopes:
        for node in scope.all_nodes():
            node.doc_string = None
            for key in [key for key in node.metadata_props if "stack_trace" in key]:
                del node.metadata_props[key]


def _name_output_axes(graph: ir.Graph, source: Checkpoint) -> None:
    """Replace what dynamo writes where it cannot prove ``batch_size``.

    An example is ``((batch_size*Min(256, sequence_length))//sequence_length)``, from GPT-2 with eager attention.
    """
    traced = source.run(source.sample(*TRACED))
    for output in graph.outputs:
        if output.name in traced and output.shape is not None:
            dims = list(output.shape)
            for axis, size in enumerate(traced[output.name].shape[: len(AXES)]):
                if not _readable(dims[axis]):
                    dims[axis] = ir.SymbolicDim(AXES[axis]) if size == TRACED[axis] else size
            output.shape = ir.Shape(dims)


def _readable(dim: int | ir.SymbolicDim) -> bool:
    return isinstance(dim, int) or (dim.value is not None and dim.value.isidentifier())
