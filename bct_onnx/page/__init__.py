"""``rewrite --report``: one page that answers how much smaller, how much worse, where, how fast, and what next.

The page is a view: of the `bct_onnx.report.Report` of a run, and of what `evidence` measures on the two files besides.
It stands alone, without scripts and without network: `template.html` has its words and styles, `sections` fill them.
"""

from bct_onnx.page.evidence import Evidence, gather
from bct_onnx.page.writing import check_writable, render, write

__all__ = ["Evidence", "check_writable", "gather", "render", "write"]
