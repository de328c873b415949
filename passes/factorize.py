"""Weights of low rank."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from bct_onnx.base import Declined, NodePass, Outcome, Site, Stage
from bct_onnx.errors import UsageError
from bct_onnx.forms.linear import Linear
from bct_onnx.graph import before, names, tensors
from bct_onnx.graph.edit import Edit
from bct_onnx.quant import Error
from bct_onnx.quant.gptq import damping_for
from bct_onnx.quant.hessian import damped

Matrix = npt.NDArray[np.float64]


@dataclasses.dataclass(frozen=True)
class Factorize(NodePass):
    """Write a weight as the product of two thin ones.

    Why:
        Trained matrices have nearly full rank, so that this alone loses much; but beyond thirty times smaller two
        factors in 4 bits that ``distill`` has trained keep more than one matrix in one bit. Two cores of a tensor train
        are such a pair (arXiv 2306.01076).

    Before/after:
        ``MatMul(x, W[K, N])`` becomes ``MatMul(MatMul(x, A[K, R]), B[R, N])``. Of all products of that rank it is the
        one with the least error of ``x W`` on what calibrate has measured: for ``C' C = X'X`` the first R singular
        values of ``C W``. Without XᵀX all inputs count alike.

    Declines:
        Weights that two factors do not make smaller, that are no matrix or tied, that are shared, named in ``keep``, or
        hold values that are not finite.

    Options:
        rank: R.
        keep: Name patterns of weights or nodes that stay whole, joined by ``|``.

    Promise:
        None: the outputs are others until the model is trained.
    """

    name: ClassVar[str] = "factorize"
    stage: ClassVar[Stage] = Stage.PREPARE
    promise: ClassVar[str] = "none"
    operators: ClassVar[tuple[str, ...]] = ("MatMul", "Gemm")
    inner: ClassVar[bool] = False

    rank: int = 64
    keep: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise UsageError(f"rank={self.rank} is not allowed", fix="use 1 or more")

    def rewrite(self, node: ir.Node, model: ir.Model) -> Outcome:
        """Factorize the weight of a product."""
        linear = Linear.of(node)
        if linear is None:
            return None
        name = linear.weight.name or "weight"
        if reason := self._refusal(linear):
            return Declined(name, reason, linear.tensor.nbytes)
        before.keep(model, rebuilt=True)
        weight = np.asarray(linear.matrix(), np.float64)
        tensors.release(linear.tensor)
        if not np.isfinite(weight).all():
            return Declined(name, "it holds values that are not finite", linear.tensor.nbytes)
        left, right = _factors(weight, _root(linear), self.rank)
        edit, kind = Edit(node), linear.tensor.dtype.numpy()
        thin = edit.op("MatMul", node.inputs[0], edit.constant(f"{name}.left", left.astype(kind)), name="thin")
        linear.replace(edit, edit.op("MatMul", thin, edit.constant(f"{name}.right", right.astype(kind))))
        share = (left.size + right.size) / weight.size
        error = Error.of(weight.astype(np.float32), (left @ right).astype(np.float32))
        return Site(name, (node.op_type,), f"rank {self.rank}, {share:.0%} of its values", error)

    def _refusal(self, linear: Linear) -> str:
        if names.any_fits((linear.weight.name, linear.node.name), self.keep):
            return "kept by option keep"
        if linear.refusal:
            return linear.refusal
        if linear.is_shared:
            return "another operator reads it too"
        rows, columns = linear.shape
        if self.rank * (rows + columns) >= rows * columns:
            return f"two factors of rank {self.rank} are no smaller"
        return ""


def _root(linear: Linear) -> Matrix | None:
    """C of ``C' C = X'X`` for the inputs of a layer; None where these were not measured."""
    measured = linear.statistics
    products = None if measured is None else measured.products
    if measured is None or products is None:
        return None
    hessian = damped(products, damping_for(linear.shape[0], measured.rows, random=measured.random))
    if hessian is None:
        return None
    return np.linalg.cholesky(hessian.astype(np.float64)).T


def _factors(weight: Matrix, root: Matrix | None, rank: int) -> tuple[Matrix, Matrix]:
    """A [K, R] and B [R, N] of the least ``|C (W - A B)|``, both of the same size."""
    left, sizes, right = np.linalg.svd(weight if root is None else root @ weight, full_matrices=False)
    half = np.sqrt(sizes[:rank])
    thin = left[:, :rank] * half
    return thin if root is None else np.linalg.solve(root, thin), half[:, None] * right[:rank]
