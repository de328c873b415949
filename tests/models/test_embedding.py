"""The page of clients that embed."""

from __future__ import annotations

from models.clients import embedding


def test_a_page_says_how_near_how_fast_and_why_not() -> None:
    def row(load: float, seconds: float, cosine: float) -> dict[str, object]:
        return {"loads": True, "load": load, "seconds": seconds, "cosine": cosine}

    rows = {
        "fp32": row(0.5, 4, 1),
        "quantize_dynamic": row(0.25, 2, 0.98765),
        "bct-plus": {"loads": False, "why": "no kernel"},
        "web": row(0.3, 1.6, 0.99),
    }
    lines = embedding.markdown({"client": {"version": "1.0", "rows": rows}}, 314).splitlines()
    assert lines[-5:] == [
        "| client 1.0 | 0.50 s, 4.00 s | 0.25 s, 2.00 s (2.00x), 0.9877 | no | 0.30 s, 1.60 s (2.50x), 0.9900 |",
        "",
        "Not loaded:",
        "",
        "- client, bct-plus: no kernel",
    ]
