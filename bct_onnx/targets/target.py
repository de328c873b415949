"""What a target is: all there is to know of one runtime, read from the TOML file that bears its name.

name = "webgpu"                    opset = 23                     fixed_shapes = false
lowering = "lower-nbits,clean-up"  # the passes that it appends to a pipeline
preset = "w4"                      # what it gets unless another is asked for; the first of all where none is named
adapts = "smooth{strength=1}"      # options that passes get for it unless they are given
[[refuses]]                        # passes whose results it has no use for, by stage
stage = "integer"
why = "..."
[[refuses]]                        # by name, with some values of their options
name = "quantize-activations"
options.per = ["token", "tensor"]
why = "..."
[[needs]]                          # passes that it cannot do without
name = "quantize-dataflow"
why = "..."
engine = "openvino"                # results are also run in it where it is installed
older = "lower-runtime"            # goes before the last pass of the lowering where an older ONNX Runtime is asked for
packs = "remove-padding"           # goes before the last pass too, behind that one
[[accepts]]                        # one way to call these operators; an operator may have several
operators = "MatMul Gemm"          # of another domain: com.microsoft::MatMulNBits
types.T = "float float16"          # by the type variables of the operator's schema; any type where none is named
attributes.bits = [4, 8]           # values that are taken
constant = [1, 2]                  # inputs that have to be constants
scales = ["tensor", "channel"]     # of QuantizeLinear and DequantizeLinear: tensor, channel or block
quantized_result = true            # what the users of the value compute has to be quantized
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from bct_onnx.graph import kernels


@dataclasses.dataclass(frozen=True)
class Form:
    """One way to call an operator that a target takes.

    Attributes:
        types: Element types that are taken, by type variable of the operator's schema or by number of the input; all
            where none are named.
        attributes: Values that are taken, by attribute.
        constant: Inputs that have to be constants.
        scales: Layouts of scales that are taken: tensor, channel, block; any if there are none.
        quantized_result: Whether what its users compute has to be quantized.
        kernel: The kernel that it is, which is for some versions of the operator only.
    """

    types: Mapping[str, tuple[str, ...]]
    attributes: Mapping[str, tuple[int, ...]] = dataclasses.field(default_factory=dict)
    constant: tuple[int, ...] = ()
    scales: tuple[str, ...] = ()
    quantized_result: bool = False
    kernel: kernels.Kernel | None = None

    def covers(self, version: int) -> bool:
        """Whether it is for this version of its operator."""
        return self.kernel is None or self.kernel.covers(version)


@dataclasses.dataclass(frozen=True)
class Fusion:
    """What a runtime makes of several operators, in words."""

    pattern: str
    into: str


@dataclasses.dataclass(frozen=True)
class Refusal:
    """Passes whose results a target has no use for.

    Attributes:
        why: The reason, in words.
        stage: All of this stage, in lower case; empty for the one that is named.
        name: The pass of this name.
        options: The values that it is refused with, by option; with all where none are named.
    """

    why: str
    stage: str = ""
    name: str = ""
    options: Mapping[str, Sequence[object]] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Need:
    """A pass that a target cannot do without, and why."""

    name: str
    why: str


@dataclasses.dataclass(frozen=True)
class Target:
    """The facts of one runtime.

    Attributes:
        name: As in ``--target``.
        about: One line for people.
        provider: ONNX Runtime's execution provider.
        opset: Highest opset of standard operators.
        kernels: The version of ONNX Runtime whose kernels are taken; empty where operators are listed.
        runtime: The oldest ONNX Runtime that shall run results, as ``NAME@1.20`` asks for; empty for the usual one.
        older: The pass that brings results to one that is older than usual; empty where that is not known to work.
        accepts: The ways in which each operator is taken, by its name (`bct_onnx.graph.operators.name`).
        lowering: Pipeline text of the passes that it appends to a pipeline.
        packs: Pipeline text of passes that take away what is computed for nobody; they are in ``lowering`` too.
        preset: What it gets unless another preset is asked for; empty for the first of all.
        adapts: Pipeline text of passes with the options that they get for it, unless these are given.
        refuses: Passes whose results it has no use for.
        needs: Passes that it cannot do without.
        standard: All standard operators are taken, and no others but functions.
        expands: Standard operators without a kernel that ONNX defines by others are expanded.
        widens: A type that is run as float32 where there is no kernel for it; empty for none.
        fixed_shapes: Every size has to be known.
        must: Operators that may not fall back to the CPU provider; ``*`` is all.
        fuses: What it makes of several operators.
        engine: The runtime in which results are run and timed besides ONNX Runtime, if it is installed; empty for none.
        session: Settings of an ONNX Runtime session on this machine, in which a result is judged as it is written.
        caution: What was seen to go wrong with compressed models on this target; empty if nothing.
        sources: Where all this is from.
    """

    name: str
    about: str
    provider: str
    opset: int
    accepts: Mapping[str, tuple[Form, ...]]
    lowering: str
    packs: str = ""
    preset: str = ""
    adapts: str = ""
    refuses: tuple[Refusal, ...] = ()
    needs: tuple[Need, ...] = ()
    kernels: str = ""
    runtime: str = ""
    older: str = ""
    standard: bool = False
    expands: bool = False
    widens: str = ""
    fixed_shapes: bool = False
    must: frozenset[str] = frozenset()
    fuses: tuple[Fusion, ...] = ()
    engine: str = ""
    session: Mapping[str, str] = dataclasses.field(default_factory=dict)
    caution: str = ""
    sources: tuple[str, ...] = ()

    def may_fall_back(self, operator: str) -> bool:
        """Whether the CPU provider may run ``operator`` instead."""
        return "*" not in self.must and operator not in self.must
