"""A word-level tokenizer and a decoder with a working cache, made on the spot."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from tests.graph import handmade

WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "good", "bad", "film", "a", "the", "not")


def tokenizer(folder: Path, *, special: bool = False) -> Path:
    """Write `tokenizer.json` with the vocabulary `WORDS` into the folder, with or without [CLS] and [SEP] around."""
    made = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    if special:
        made.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]",
            pair="[CLS] $A [SEP] $B:1 [SEP]:1",
            special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
        )
    folder.mkdir(exist_ok=True)
    made.save(str(folder / "tokenizer.json"))
    return folder


def cumulative(*, mask: bool = True, branch: bool = False) -> onnx.ModelProto:
    """A decoder whose logits at a token depend on all tokens before it, the past ones through the cache.

    The mask counts: a step that sees too short a mask fails. `branch` adds the input `use_cache_branch`, which has to
    be true for the past to count.
    """
    masks = ', int64[batch, "past_sequence_length + sequence_length"] attention_mask' if mask else ""
    switch = ", bool[1] use_cache_branch" if branch else ""
    past = 'used = Cast <to = 1> (use_cache_branch) old = Mul ("past.0.key", used)' if branch else ""
    weigh = (
        """float_mask = Cast <to = 1> (attention_mask) column = Unsqueeze (float_mask, ends) kept = Mul (all, column)"""
        if mask
        else "kept = Identity (all)"
    )
    text = f"""
    <ir_version: 9, opset_import: ["" : 18]>
    decoder (int64[batch, sequence_length] input_ids{masks},
             int64[batch, sequence_length] position_ids, float[batch, 1, past_sequence_length, 4] "past.0.key"{switch})
        => (float[batch, sequence_length, 12] logits, float[batch, 1, total, 4] "present.0.key") {{
      words = Gather (table, input_ids)
      places = Gather (positions, position_ids)
      new3 = Add (words, places)
      one = Constant <value_ints = [1]> ()
      ends = Constant <value_ints = [1, 3]> ()
      new = Unsqueeze (new3, one)
      {past or 'old = Identity ("past.0.key")'}
      all = Concat <axis = 2> (old, new)
      "present.0.key" = Identity (all)
      {weigh}
      axis = Constant <value_int = 2> ()
      sums = CumSum (kept, axis)
      from = Shape <start = 2, end = 3> (old)
      to = Shape <start = 2, end = 3> (all)
      two = Constant <value_ints = [2]> ()
      recent = Slice (sums, from, to, two)
      flat = Squeeze (recent, one)
      logits = MatMul (flat, weight)
    }}
    """
    model = handmade.parse(text)
    rng = np.random.default_rng(0)
    for name, shape in {"table": (12, 4), "positions": (16, 4), "weight": (4, 12)}.items():
        model.graph.initializer.append(
            onnx.numpy_helper.from_array(rng.standard_normal(shape).astype(np.float32), name)
        )
    onnx.checker.check_model(model)
    return model
