"""Where the error of a rewrite comes from: ingredient by ingredient, pass by pass, tensor by tensor.

Every question is answered the same way. Candidates are built from the model, each with one thing changed; a `Yardstick`
measures how far each is from the model as it came, on the task's data or on random tokens; the answer is a
`Sensitivity`, which is a table, JSON and a picture.
"""

from bct_onnx.sensitivity.ingredients import by_ingredient
from bct_onnx.sensitivity.result import Row, Sensitivity
from bct_onnx.sensitivity.stages import by_pass
from bct_onnx.sensitivity.study import Study, open_study
from bct_onnx.sensitivity.weights import by_tensor
from bct_onnx.yardstick import Figures, Yardstick

__all__ = ["Figures", "Row", "Sensitivity", "Study", "Yardstick", "by_ingredient", "by_pass", "by_tensor", "open_study"]
