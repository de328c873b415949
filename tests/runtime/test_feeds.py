from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import pytest

from bct_onnx.errors import InputModelError, TargetError, UsageError
from bct_onnx.runtime.feeds import load_feeds, random_feeds
from bct_onnx.runtime.inputs import Input, inputs_of
from bct_onnx.runtime.session import run, session
from bct_onnx.runtime.understanding import Sampler
from bct_onnx.runtime.vocabulary import vocabulary
from tests.runtime import tiny

INT64, FLOAT = np.dtype(np.int64), np.dtype(np.float32)


def made(name: str, shape: tuple[int | str | None, ...], dtype: Any = INT64, **options: Any) -> np.ndarray[Any, Any]:
    return random_feeds([Input(name, np.dtype(dtype), shape)], **{"batch": 2, "sequence": 5, **options})[name]


def test_encoder_runs_and_session_and_graph_declare_the_same() -> None:
    proto = tiny.encoder()
    target = session(proto.SerializeToString())
    assert inputs_of(target) == inputs_of(ir.from_proto(proto))
    feeds = random_feeds(target, batch=3, sequence=7, vocab=12)
    assert {name: array.shape for name, array in feeds.items()} == dict.fromkeys(feeds, (3, 7))
    assert run(target, feeds)[0].shape == (3, 7, 8)


def test_decoder_with_empty_cache_runs() -> None:
    target = session(tiny.decoder().SerializeToString())
    feeds = random_feeds(target, batch=3, sequence=7, vocab=12)
    assert feeds["past_key_values.0.key"].shape == (3, 2, 0, 4)
    assert feeds["attention_mask"].shape == (3, 7)
    assert feeds["position_ids"].tolist() == [list(range(7))] * 3
    logits, present = run(target, feeds)
    assert logits.shape == (3, 7, 12) and present.shape == (3, 2, 7, 4)


def test_seed_decides_the_values() -> None:
    inputs = [Input("input_ids", INT64, ("batch", "sequence"))]
    same = [random_feeds(inputs, sequence=64, seed=seed)["input_ids"].tolist() for seed in (0, 0, 1)]
    assert same[0] == same[1] != same[2]


@pytest.mark.parametrize("vocab", [3, {"input_ids": 3}])
def test_token_ids_cover_the_vocabulary_and_no_more(vocab: Any) -> None:
    assert set(made("input_ids", ("b", "s"), sequence=64, vocab=vocab).ravel()) == {0, 1, 2}


def test_default_vocabulary() -> None:
    ids = made("decoder_input_ids", ("batch", "decoder_sequence_length"), np.int32, sequence=500)
    assert ids.shape == (2, 500) and ids.dtype == np.int32
    assert ids.min() >= 0 and 90 < ids.max() < 100


def test_padding_is_at_the_right_and_never_in_the_first_row() -> None:
    mask = made("attention_mask", ("batch", "sequence"), batch=50, sequence=10, padding=True)
    assert mask[0].all() and set(mask.sum(axis=1)) == set(range(5, 11))
    assert (np.diff(mask, axis=1) <= 0).all()
    assert made("attention_mask", ("batch", "sequence")).all()


@pytest.mark.parametrize(
    ("name", "shape", "dtype", "expected"),
    [
        ("token_type_ids", ("batch", "sequence"), np.int64, np.zeros((2, 5))),
        ("attention_mask", ("batch", "past_sequence_length + 1"), np.int64, np.ones((2, 5))),
        ("attention_mask", ("batch", 1, "sequence", "sequence"), np.float32, np.zeros((2, 1, 5, 5))),
        ("attention_mask", ("batch", 1, "sequence", "sequence"), np.bool_, np.ones((2, 1, 5, 5))),
        ("position_ids", (3, "batch", "sequence"), np.int64, np.broadcast_to(np.arange(5), (3, 2, 5))),
        ("cache_position", ("sequence_length",), np.int64, np.arange(5)),
        ("past_key_values.3.value", ("batch_size", 4, "past_sequence_length", 8), np.float16, np.zeros((2, 4, 0, 8))),
        ("use_cache_branch", (1,), np.bool_, [False]),
        ("input_ids", (1, 8), np.int64, None),
    ],
)
def test_values_by_name(name: str, shape: tuple[int | str | None, ...], dtype: Any, expected: Any) -> None:
    array = made(name, shape, dtype)
    assert array.dtype == dtype
    if expected is None:
        assert array.shape == shape
    else:
        np.testing.assert_array_equal(array, np.asarray(expected, dtype))


@pytest.mark.parametrize(
    ("name", "shape", "expected"),
    [
        ("pixel_values", ("batch_size", "num_channels", "height", "width"), (2, 3, 224, 224)),
        ("pixel_values", ("s0", None, None, None), (2, 3, 224, 224)),
        ("pixel_values", ("batch", 1, 28, 28), (2, 1, 28, 28)),
        ("input_features", ("batch_size", 80, "encoder_sequence_length"), (2, 80, 3000)),
        ("input_values", ("batch_size", "audio_sequence_length"), (2, 16000)),
        ("inputs_embeds", ("batch_size", "sequence_length", 32), (2, 5, 32)),
        ("whatever", ("d0", "d1", 4), (2, 5, 4)),
        ("past_key_values.0.encoder.key", ("batch_size", 4, None, 8), (2, 4, 5, 8)),
        ("past_key_values.0.key", ("batch_size", 4, 3, 8), (2, 4, 3, 8)),
        ("encoder_hidden_states", ("batch_size", "encoder_sequence_length", 4), (2, 5, 4)),
        ("scalar", (), ()),
    ],
)
def test_floats_are_normal_and_of_the_right_shape(
    name: str, shape: tuple[int | str | None, ...], expected: tuple[int, ...]
) -> None:
    array = made(name, shape, FLOAT)
    assert array.shape == expected and array.dtype == FLOAT
    assert np.isfinite(array).all() and array.any()


def test_unnamed_symbols_mean_the_same_everywhere() -> None:
    inputs = [
        Input("attention_mask", INT64, ("s77", "s0 + s53")),
        Input("other", FLOAT, ("s53", "s77")),
        Input("past_key_values.0.key", FLOAT, ("s77", 2, "s0", 4)),
        Input("input_ids", INT64, ("s77", "s53")),
    ]
    shapes = {name: array.shape for name, array in random_feeds(inputs, batch=2, sequence=5).items()}
    assert shapes == {
        "attention_mask": (2, 5),
        "other": (5, 2),
        "past_key_values.0.key": (2, 2, 0, 4),
        "input_ids": (2, 5),
    }


def test_cross_attention_caches_fit_the_encoder() -> None:
    inputs = [
        Input("past_key_values.0.encoder.key", FLOAT, ("batch_size", 2, "encoder_sequence_length", 4)),
        Input("past_key_values.0.decoder.key", FLOAT, ("batch_size", 2, "past_decoder_sequence_length", 4)),
        Input("encoder_hidden_states", FLOAT, ("batch_size", "encoder_sequence_length", 8)),
        Input("encoder_attention_mask", INT64, ("batch_size", "encoder_sequence_length")),
    ]
    shapes = [array.shape for array in random_feeds(inputs, batch=2, sequence=5).values()]
    assert shapes == [(2, 2, 5, 4), (2, 2, 0, 4), (2, 5, 8), (2, 5)]


def test_image_size() -> None:
    assert made("pixel_values", ("batch", 3, "height", "width"), FLOAT, image=32).shape == (2, 3, 32, 32)


def test_bfloat16_input() -> None:
    assert made("inputs_embeds", ("batch", "sequence", 4), ml_dtypes.bfloat16).dtype == ml_dtypes.bfloat16


def test_input_that_is_no_tensor_is_refused() -> None:
    sequence = onnx.helper.make_tensor_sequence_value_info("xs", 1, [2])
    out = onnx.helper.make_tensor_value_info("n", 7, [])
    graph = onnx.helper.make_graph([onnx.helper.make_node("SequenceLength", ["xs"], ["n"])], "g", [sequence], [out])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=9)
    with pytest.raises(TargetError, match="'xs' is of type seq"):
        inputs_of(session(model.SerializeToString()))
    with pytest.raises(InputModelError, match="'xs'"):
        inputs_of(ir.from_proto(model))


def test_vocabulary_is_the_smallest_table() -> None:
    assert vocabulary(ir.from_proto(tiny.encoder())) == {"input_ids": 12, "token_type_ids": 2}
    assert vocabulary(ir.from_proto(tiny.decoder())) == {"input_ids": 12, "position_ids": 16}


LOOKUPS = {
    "behind moves": ("i = Cast <to = 6> (input_ids) j = Identity (i) y = Gather (table, j)", ""),
    "quantized whole": (
        "one = Constant <value_float = 1.0> () t = DequantizeLinear (codes, one) y = Gather (t, input_ids)",
        "",
    ),
    "quantized rows": (
        "one = Constant <value_float = 1.0> () r = Gather (codes, input_ids) y = DequantizeLinear (r, one)",
        "",
    ),
    "in a function": (
        "y = box.look_up (table, input_ids)",
        '<domain: "box", opset_import: ["" : 18]> look_up (t, i) => (r) { r = Gather (t, i) }',
    ),
}


@pytest.mark.parametrize("spelling", LOOKUPS)
def test_vocabulary_of_spellings(spelling: str) -> None:
    nodes, function = LOOKUPS[spelling]
    table = "int8[7, 2] codes" if "codes" in nodes else "float[7, 2] table"
    values = ", ".join(["0"] * 14)
    text = f"""<ir_version: 9, opset_import: ["" : 18, "box" : 1]>
    g (int64[b, s] input_ids) => (float[b, s, 2] y) <{table} = {{{values}}}> {{ {nodes} }}
    {function}"""
    model = ir.from_proto(onnx.parser.parse_model(text))
    assert vocabulary(model) == {"input_ids": 7}
    assert len(model.functions) == (1 if function else 0), "the model given must not be changed"


def test_shape_arithmetic_is_no_lookup() -> None:
    text = """<ir_version: 9, opset_import: ["" : 18]>
    g (int64[b, s] input_ids) => (int64 y) { n = Shape (input_ids) one = Constant <value_int = 1> () y = Gather (n, one)
    }"""
    assert vocabulary(ir.from_proto(onnx.parser.parse_model(text))) == {}


def test_feeds_from_a_file(tmp_path: Path) -> None:
    target = session(tiny.encoder().SerializeToString())
    feeds = random_feeds(target, batch=2, sequence=5, vocab=12)
    feeds["input_ids"] = feeds["input_ids"].astype(np.int32)  # widened without loss
    np.savez(tmp_path / "inputs.npz", **dict[str, Any](feeds))
    loaded = load_feeds(tmp_path / "inputs.npz", target)
    assert list(loaded) == [i.name for i in inputs_of(target)]
    assert loaded["input_ids"].dtype == np.int64
    assert all(np.array_equal(loaded[name], feeds[name]) for name in feeds)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"input_idz": np.zeros((1, 2), np.int64)}, "did you mean 'input_ids'"),
        ({"zzz": np.zeros((1, 2), np.int64)}, "its inputs: input_ids, attention_mask, token_type_ids"),
        ({"attention_mask": None}, "no array for model input 'attention_mask'"),
        ({"input_ids": np.zeros((1, 2), np.float32)}, "dtype float32 does not fit"),
        ({"input_ids": np.zeros(2, np.int64)}, r"declares \[batch, sequence\]"),
    ],
)
def test_file_that_does_not_fit(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    target = session(tiny.encoder().SerializeToString())
    arrays = {k: v for k, v in (random_feeds(target, sequence=2) | change).items() if v is not None}
    np.savez(tmp_path / "inputs.npz", **arrays)
    with pytest.raises(UsageError) as caught:
        load_feeds(tmp_path / "inputs.npz", target)
    assert caught.match(message) and "inputs.npz" in str(caught.value)


def test_fixed_dimension_is_checked(tmp_path: Path) -> None:
    np.savez(tmp_path / "inputs.npz", input_ids=np.zeros((1, 3), np.int64))
    with pytest.raises(UsageError, match=r"declares \[batch, 4\]"):
        load_feeds(tmp_path / "inputs.npz", [Input("input_ids", INT64, ("batch", 4))])


def test_unreadable_file(tmp_path: Path) -> None:
    (tmp_path / "inputs.npz").write_text("no archive")
    (tmp_path / "cut.npz").write_bytes(b"PK\x03\x04")
    for path in (tmp_path / name for name in ("inputs.npz", "cut.npz", "none.npz")):
        with pytest.raises(UsageError, match="cannot read the inputs"):
            load_feeds(path, [])
    np.save(tmp_path / "one.npy", np.zeros(2))
    with pytest.raises(UsageError, match="cannot read the inputs"):
        load_feeds(tmp_path / "one.npy", [])


@pytest.mark.parametrize("at_most", [1, 7, 16, 17, 64])
def test_the_longest_sequence_is_found(at_most: int) -> None:
    proto = tiny.decoder()  # 16 positions
    sampler = Sampler(ir.from_proto(proto), session(proto.SerializeToString()))
    assert sampler.longest(at_most) == min(at_most, 16)


def test_a_model_that_runs_on_no_sequence() -> None:
    proto = onnx.parser.parse_model("""<ir_version: 8, opset_import: ["" : 17]>
        g (float[n,4] x) => (float[7,4] y) <int64[2] dims = {7, 7}> { y = Reshape (x, dims) }""")
    with pytest.raises(TargetError):
        Sampler(ir.from_proto(proto), session(proto.SerializeToString()))


def test_functions_of_another_opset_are_looked_into() -> None:
    model = ir.from_onnx_text("""
        <ir_version: 10, opset_import: ["" : 23, "my" : 1]> g (int64[n] ids, float[7,4] w) => (float[n,4] y)
            { y = my.look (w, ids) }
        <domain: "my", opset_import: ["" : 18]> look (w, ids) => (y) { y = Gather (w, ids) }""")
    assert vocabulary(model) == {"ids": 7} and list(model.functions) == [("my", "look", "")]
