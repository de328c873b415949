"""Write a transformer of any size with random weights, to see what a tool does with big models.

    python models/synthetic.py OUT.onnx --gigabytes 3 [--many-files]

An encoder with post-normalization and exact GELU in float32, opset 17, with dynamic batch and sequence axes. The same
options give the same bytes. Memory holds one tensor at a time; above 1 GiB the weights go into an external data file,
or into one per tensor, as PyTorch's older exporter writes them.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import onnx_ir as ir

from bct_onnx.errors import BctError
from bct_onnx.graph.atomic import Sink
from bct_onnx.graph.save import KEPT_INSIDE, save, serialize
from bct_onnx.graph.tensor_messages import copy, embed, refer

HEAD = 64
"""Width of an attention head."""

_MODEL = """<ir_version: 8, opset_import: ["" : 17], producer_name: "bct-onnx synthetic">
synthetic (int64[batch, sequence] input_ids, int64[batch, sequence] attention_mask, {weights})
    => (float[batch, sequence, {hidden}] last_hidden_state)
    <int64[4] heads = {{0, 0, -1, {head}}}, int64[3] merged = {{0, 0, -1}}, int64[1] middle = {{1}},
     float one = {{1}}, float lowest = {{-10000}}, float root = {{{root}}}, float half = {{0.5}},
     float sqrt2 = {{1.4142135}}>
{{
    mask_3d = Unsqueeze (attention_mask, middle)
    mask_4d = Unsqueeze (mask_3d, middle)
    keep = Cast <to = 1> (mask_4d)
    drop = Sub (one, keep)
    mask = Mul (drop, lowest)
    x_0 = Gather (embedding, input_ids)
    {layers}
    last_hidden_state = Identity (x_{count})
}}
"""

_LAYER = """
    q_{i} = MatMul (x_{i}, query_{i})
    q4_{i} = Reshape (q_{i}, heads)
    qh_{i} = Transpose <perm = [0, 2, 1, 3]> (q4_{i})
    k_{i} = MatMul (x_{i}, key_{i})
    k4_{i} = Reshape (k_{i}, heads)
    kh_{i} = Transpose <perm = [0, 2, 3, 1]> (k4_{i})
    v_{i} = MatMul (x_{i}, value_{i})
    v4_{i} = Reshape (v_{i}, heads)
    vh_{i} = Transpose <perm = [0, 2, 1, 3]> (v4_{i})
    raw_{i} = MatMul (qh_{i}, kh_{i})
    scaled_{i} = Div (raw_{i}, root)
    masked_{i} = Add (scaled_{i}, mask)
    weights_{i} = Softmax <axis = -1> (masked_{i})
    mixed_{i} = MatMul (weights_{i}, vh_{i})
    back_{i} = Transpose <perm = [0, 2, 1, 3]> (mixed_{i})
    context_{i} = Reshape (back_{i}, merged)
    attention_{i} = MatMul (context_{i}, output_{i})
    sum_{i} = Add (x_{i}, attention_{i})
    norm_{i} = LayerNormalization <axis = -1, epsilon = 1e-5> (sum_{i}, scale_1_{i}, bias_1_{i})
    up_{i} = MatMul (norm_{i}, up_weight_{i})
    ratio_{i} = Div (up_{i}, sqrt2)
    erf_{i} = Erf (ratio_{i})
    plus_{i} = Add (erf_{i}, one)
    product_{i} = Mul (up_{i}, plus_{i})
    gelu_{i} = Mul (product_{i}, half)
    down_{i} = MatMul (gelu_{i}, down_weight_{i})
    sum2_{i} = Add (norm_{i}, down_{i})
    x_{next} = LayerNormalization <axis = -1, epsilon = 1e-5> (sum2_{i}, scale_2_{i}, bias_2_{i})"""


def transformer(*, layers: int, hidden: int = 4096, vocabulary: int = 32_000, seed: int = 0) -> ir.Model:
    """A transformer encoder whose weights are drawn, one tensor at a time, when they are read.

    Args:
        layers: Number of layers, each with 12 * hidden**2 weights.
        hidden: Width of the activations, a multiple of `HEAD`.
        vocabulary: Rows of the embedding table.
        seed: Seed of the weights.
    """
    shapes: dict[str, tuple[int, ...]] = {"embedding": (vocabulary, hidden)}
    for i in range(layers):
        shapes |= {f"{name}_{i}": (hidden, hidden) for name in ("query", "key", "value", "output")}
        shapes |= {f"up_weight_{i}": (hidden, 4 * hidden), f"down_weight_{i}": (4 * hidden, hidden)}
        shapes |= {f"{name}_{i}": (hidden,) for name in ("scale_1", "bias_1", "scale_2", "bias_2")}
    text = _MODEL.format(
        hidden=hidden,
        head=HEAD,
        root=HEAD**0.5,
        count=layers,
        weights=", ".join(f"float{list(shape)} {name}" for name, shape in shapes.items()),
        layers="".join(_LAYER.format(i=i, next=i + 1) for i in range(layers)),
    )
    graph = (model := ir.from_onnx_text(text)).graph
    for number, ((name, shape), value) in enumerate(zip(shapes.items(), graph.inputs[2:], strict=True)):
        value.const_value = _random(name, shape, (seed, number))
        graph.initializers.add(value)
    del graph.inputs[2:]
    return model


def _random(name: str, shape: tuple[int, ...], seed: tuple[int, int]) -> ir.LazyTensor:
    def draw() -> ir.TensorProtocol:
        data = np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)
        data *= np.float32(0.02)
        if name.startswith("scale"):
            data += np.float32(1)
        return ir.Tensor(data)

    return ir.LazyTensor(draw, dtype=ir.DataType.FLOAT, shape=ir.Shape(shape), name=name)


def in_many_files(model: ir.Model, path: Path) -> tuple[Path, ...]:
    """Write ``model`` with a data file for each tensor beside it, which must not exist; return all files."""
    proto, pairs = serialize(model)
    files = [path]
    for message, tensor in pairs:
        if tensor.nbytes <= KEPT_INSIDE:
            embed(message, tensor)
            continue
        files.append(path.with_name(message.name))
        with Sink(files[-1]) as sink:
            copy(tensor, sink)
        refer(message, message.name, 0, tensor.nbytes)
    with Sink(path) as sink:
        sink.write(proto.SerializeToString(deterministic=True))
    return tuple(files)


def sized(gigabytes: float, *, hidden: int = 4096, vocabulary: int = 32_000, seed: int = 0) -> ir.Model | None:
    """The transformer nearest to so many times 10**9 bytes; None if that is not one layer."""
    layers = round((gigabytes * 1e9 - 4 * vocabulary * hidden) / (4 * 12 * hidden**2))
    return transformer(layers=layers, hidden=hidden, vocabulary=vocabulary, seed=seed) if layers >= 1 else None


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    parser = argparse.ArgumentParser(description="Write a transformer with random weights, of about the given size.")
    parser.add_argument("output", type=Path, help="the model file to write; must not exist")
    parser.add_argument("--gigabytes", type=float, default=3.0, help="size to come near to, in units of 10**9 bytes")
    parser.add_argument("--hidden", type=int, default=4096, help=f"width, a multiple of {HEAD}")
    parser.add_argument("--vocabulary", type=int, default=32_000, help="rows of the embedding table")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--many-files", action="store_true", help="a data file per tensor")
    options = parser.parse_args(arguments)
    if options.hidden < HEAD or options.hidden % HEAD:
        parser.error(f"--hidden must be a multiple of {HEAD}")
    model = sized(options.gigabytes, hidden=options.hidden, vocabulary=options.vocabulary, seed=options.seed)
    if model is None:
        parser.error("too small for one layer: raise --gigabytes, or lower --hidden or --vocabulary")
    try:
        written = (in_many_files if options.many_files else save)(model, options.output)
    except (BctError, OSError) as error:
        print(error, file=sys.stderr)
        return error.exit_code if isinstance(error, BctError) else 5
    layers = sum(node.op_type == "Softmax" for node in model.graph)
    files = written if len(written) < 3 else (written[0], f"and {len(written) - 1} data files")
    print(f"{layers} layers, {sum(file.stat().st_size for file in written):,} bytes:", *files)
    return 0


if __name__ == "__main__":
    sys.exit(main())
