"""What passes talk about: one type for each thing, how it is written into a graph, and how it is read back.

| form | in a graph |
|---|---|
| `linear.Linear` | a MatMul or Gemm by a constant weight of floats, whichever way round |
| `embeddings.Embedding` | a table of floats whose rows are looked up, and the layers tied to it |
| `weights.StoredWeight` | a weight in few bits |
| `tables.StoredTable` | a table in few bits |
| `codes.Codes` | a value in integers, its scale a constant |
| `activations.Activation` | what a product multiplies: floats, or codes with whatever scales |
| `products.Product` | a MatMul by a stored weight, its activation, and the bias and quantization behind |
| `residual.Side` | either side of a sum into the residual stream, in integers |
| `gated` | sigmoids and tanhs that multiply what they are functions of |

Passes write forms and lowerings read them: ``for product in products(graph): ...``; nothing else knows how they stand
in a graph. `int8` and `nbits` make of a stored weight what kernels of ONNX Runtime take.
"""
