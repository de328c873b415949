"""What passes talk about: one type for each thing, how it is written into a graph, and how it is read back.

| form | in a graph |
|---|---|
| `linear.Linear` | a MatMul or Gemm by a constant weight of floats |
| `weights.Stored` | such a weight in few bits |
| `tables.Table` | an embedding table in few bits |
| `codes.Codes` | an activation in integers, its scale a constant |
| `residual.is_residual` | a sum into the residual stream |
| `gated` | sigmoids and tanhs that multiply what they are functions of |

Passes write forms and lowerings read them; nothing else knows how they are spelled.
"""
