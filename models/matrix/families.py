"""The families, as data: a class of transformers, a tiny configuration, and what it takes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Family:
    """One architecture in a tiny configuration with random weights.

    Attributes:
        model: Class of transformers.
        task: What optimum calls what it does; with ``-with-past`` for a cache if ``caches``.
        takes: Inputs: names of `models.matrix.inputs.MAKERS`.
        config: Arguments of its configuration class.
        caches: Whether optimum exports it with a cache of keys and values too.
    """

    model: str
    task: str
    takes: tuple[str, ...]
    config: Mapping[str, Any] = field(default_factory=dict)
    caches: bool = False


SMALL = {
    "vocab_size": 160,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 128,
    "max_position_embeddings": 96,
}
"""What most configurations call their sizes."""

_IDS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
_TOKENS = ("input_ids", "attention_mask")
_PAIR = (*_TOKENS, "token_type_ids")


def _encoder(model: str, takes: tuple[str, ...] = _PAIR, *, plain: bool = False, **config: Any) -> Family:
    """A text encoder; ``plain`` leaves out `SMALL`."""
    tasks = {
        "ForSequenceClassification": "text-classification",
        "ForTokenClassification": "token-classification",
        "ForQuestionAnswering": "question-answering",
        "ForMaskedLM": "fill-mask",
        "Model": "feature-extraction",
    }
    task = next(task for suffix, task in tasks.items() if model.endswith(suffix))
    return Family(model, task, takes, config if plain else {**SMALL, **config})


def _decoder(model: str, *, plain: bool = False, **config: Any) -> Family:
    sizes = {} if plain else SMALL
    return Family(model, "text-generation", _TOKENS, {**sizes, **_IDS, **config}, caches=True)


def _grouped(model: str, **config: Any) -> Family:
    """A decoder whose queries share heads of keys and values."""
    return _decoder(model, **{"num_key_value_heads": 2, **config})


def _translator(model: str, **config: Any) -> Family:
    """An encoder-decoder of the BART kind."""
    sizes = {
        "vocab_size": 160,
        "d_model": 64,
        "encoder_layers": 2,
        "decoder_layers": 2,
        "encoder_attention_heads": 4,
        "decoder_attention_heads": 4,
        "encoder_ffn_dim": 128,
        "decoder_ffn_dim": 128,
        "max_position_embeddings": 96,
        "decoder_start_token_id": 2,
        "forced_eos_token_id": None,
    }
    return Family(model, "text2text-generation", (*_TOKENS, "decoder_input_ids"), {**sizes, **_IDS, **config}, True)


def _t5(model: str, **config: Any) -> Family:
    sizes = {"vocab_size": 160, "d_model": 64, "d_kv": 16, "d_ff": 128, "num_layers": 2, "num_heads": 4}
    sizes |= {"pad_token_id": 0, "eos_token_id": 1, "decoder_start_token_id": 0}
    return Family(model, "text2text-generation", (*_TOKENS, "decoder_input_ids"), {**sizes, **config}, True)


_IMAGE = {"image_size": 32, "patch_size": 8, "num_channels": 3}
_SIGHT = {**{name: SMALL[name] for name in list(SMALL)[1:5]}, **_IMAGE}


def _vision(model: str, **config: Any) -> Family:
    task = "image-classification" if model.endswith("ForImageClassification") else "feature-extraction"
    return Family(model, task, ("pixel_values",), config)


_TEXT_TOWER = {**SMALL, "projection_dim": 32, **_IDS}
_IMAGE_TOWER = {**_SIGHT, "projection_dim": 32}
_SOUND = {
    "vocab_size": 32,
    **{name: SMALL[name] for name in list(SMALL)[1:5]},
    "conv_dim": (32, 32, 32),
    "conv_stride": (5, 4, 4),
    "conv_kernel": (10, 8, 4),
    "num_feat_extract_layers": 3,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
}

FAMILIES: dict[str, Family] = {
    "bert": _encoder("BertForSequenceClassification"),
    "roberta": _encoder("RobertaForMaskedLM", _TOKENS),
    "distilbert": _encoder(
        "DistilBertForSequenceClassification",
        _TOKENS,
        plain=True,
        vocab_size=160,
        dim=64,
        n_layers=2,
        n_heads=4,
        hidden_dim=128,
        max_position_embeddings=96,
    ),
    "albert": _encoder("AlbertForSequenceClassification", embedding_size=32),
    "electra": _encoder("ElectraForSequenceClassification", embedding_size=32),
    "mpnet": _encoder("MPNetForMaskedLM", _TOKENS),
    "deberta": _encoder(
        "DebertaForSequenceClassification", relative_attention=True, pos_att_type=["p2c", "c2p"], type_vocab_size=0
    ),
    "deberta-v2": _encoder(
        "DebertaV2ForSequenceClassification",
        relative_attention=True,
        pos_att_type=["p2c", "c2p"],
        position_buckets=16,
        share_att_key=True,
        norm_rel_ebd="layer_norm",
    ),
    "xlm-roberta": _encoder("XLMRobertaForTokenClassification", _TOKENS),
    "camembert": _encoder("CamembertForQuestionAnswering", _TOKENS),
    "mobilebert": _encoder(
        "MobileBertForSequenceClassification", embedding_size=32, intra_bottleneck_size=32, num_feedforward_networks=2
    ),
    "funnel": _encoder(
        "FunnelForSequenceClassification",
        plain=True,
        vocab_size=160,
        block_sizes=[1, 1],
        num_decoder_layers=1,
        d_model=64,
        n_head=4,
        d_head=16,
        d_inner=128,
    ),
    "longformer": _encoder("LongformerForMaskedLM", _TOKENS, attention_window=[8, 8]),
    "modernbert": _encoder(
        "ModernBertForMaskedLM",
        _TOKENS,
        global_attn_every_n_layers=2,
        local_attention=8,
        pad_token_id=0,
        reference_compile=False,
    ),
    "big-bird": _encoder("BigBirdForSequenceClassification", attention_type="original_full"),
    "convbert": _encoder("ConvBertForSequenceClassification", embedding_size=64, head_ratio=2, conv_kernel_size=3),
    "roformer": _encoder("RoFormerForMaskedLM", embedding_size=64),
    "rembert": _encoder("RemBertForSequenceClassification", input_embedding_size=32, output_embedding_size=32),
    "nystromformer": _encoder(
        "NystromformerForSequenceClassification",
        num_landmarks=8,
        segment_means_seq_len=8,
        inv_init_coeff_option="original",
    ),
    "squeezebert": _encoder("SqueezeBertForSequenceClassification", embedding_size=64),
    "esm": _encoder("EsmForMaskedLM", _TOKENS, pad_token_id=0, mask_token_id=3, position_embedding_type="rotary"),
    "xlnet": _encoder(
        "XLNetForSequenceClassification", plain=True, vocab_size=160, d_model=64, n_layer=2, n_head=4, d_inner=128
    ),
    "gpt2": _decoder(
        "GPT2LMHeadModel", plain=True, vocab_size=160, n_positions=96, n_embd=64, n_layer=2, n_head=4, n_inner=128
    ),
    "gpt-neo": _decoder(
        "GPTNeoForCausalLM",
        plain=True,
        vocab_size=160,
        hidden_size=64,
        num_layers=2,
        num_heads=4,
        intermediate_size=128,
        max_position_embeddings=96,
        attention_types=[[["global", "local"], 1]],
        window_size=8,
    ),
    "gpt-j": _decoder(
        "GPTJForCausalLM", plain=True, vocab_size=160, n_positions=96, n_embd=64, n_layer=2, n_head=4, rotary_dim=8
    ),
    "gpt-neox": _decoder("GPTNeoXForCausalLM", rotary_pct=0.5),
    "gpt-bigcode": _decoder(
        "GPTBigCodeForCausalLM", plain=True, vocab_size=160, n_positions=96, n_embd=64, n_layer=2, n_head=4, n_inner=128
    ),
    "opt": _decoder("OPTForCausalLM", ffn_dim=128, word_embed_proj_dim=64),
    "bloom": _decoder("BloomForCausalLM", plain=True, vocab_size=160, hidden_size=64, n_layer=2, n_head=4),
    "llama": _grouped("LlamaForCausalLM"),
    "mistral": _grouped("MistralForCausalLM", sliding_window=8),
    "mixtral": _grouped("MixtralForCausalLM", num_local_experts=4),
    "qwen2": _grouped("Qwen2ForCausalLM"),
    "qwen3": _grouped("Qwen3ForCausalLM", head_dim=16),
    "gemma": _grouped("GemmaForCausalLM", head_dim=16),
    "gemma2": _grouped("Gemma2ForCausalLM", head_dim=16, sliding_window=8, query_pre_attn_scalar=16),
    "phi": _decoder("PhiForCausalLM", partial_rotary_factor=0.5),
    "phi3": _grouped("Phi3ForCausalLM"),
    "falcon": _decoder("FalconForCausalLM", new_decoder_architecture=False, multi_query=True, alibi=False),
    "mpt": _decoder("MptForCausalLM", plain=True, vocab_size=160, d_model=64, n_heads=4, n_layers=2, max_seq_len=96),
    "starcoder2": _grouped("Starcoder2ForCausalLM"),
    "stablelm": _grouped("StableLmForCausalLM", partial_rotary_factor=0.5),
    "olmo2": _grouped("Olmo2ForCausalLM"),
    "t5": _t5("T5ForConditionalGeneration"),
    "mt5": _t5("MT5ForConditionalGeneration", feed_forward_proj="gated-gelu"),
    "bart": _translator("BartForConditionalGeneration"),
    "mbart": _translator("MBartForConditionalGeneration"),
    "marian": _translator("MarianMTModel"),
    "pegasus": _translator("PegasusForConditionalGeneration"),
    "m2m-100": _translator("M2M100ForConditionalGeneration"),
    "blenderbot-small": _translator("BlenderbotSmallForConditionalGeneration"),
    "whisper": Family(
        "WhisperForConditionalGeneration",
        "automatic-speech-recognition",
        ("input_features", "decoder_input_ids"),
        {
            **_translator("").config,
            "num_mel_bins": 16,
            "max_source_positions": 24,
            "max_target_positions": 96,
            "suppress_tokens": None,
            "begin_suppress_tokens": None,
        },
        caches=True,
    ),
    "wav2vec2": Family("Wav2Vec2ForCTC", "automatic-speech-recognition", ("input_values",), _SOUND),
    "hubert": Family("HubertForCTC", "automatic-speech-recognition", ("input_values",), _SOUND),
    "vit": _vision("ViTForImageClassification", **_SIGHT),
    "deit": _vision("DeiTForImageClassification", **_SIGHT),
    "beit": _vision("BeitForImageClassification", **_SIGHT, use_relative_position_bias=True),
    "dinov2": _vision("Dinov2ForImageClassification", **_SIGHT, mlp_ratio=2),
    "swin": _vision(
        "SwinForImageClassification",
        image_size=32,
        patch_size=4,
        embed_dim=32,
        depths=[2, 2],
        num_heads=[2, 4],
        window_size=4,
    ),
    "segformer": _vision(
        "SegformerForImageClassification",
        num_encoder_blocks=2,
        depths=[1, 1],
        sr_ratios=[2, 1],
        hidden_sizes=[32, 64],
        patch_sizes=[7, 3],
        strides=[4, 2],
        num_attention_heads=[2, 4],
        mlp_ratios=[2, 2],
        decoder_hidden_size=32,
        image_size=32,
    ),
    "clip": Family(
        "CLIPModel",
        "feature-extraction",
        ("input_ids", "pixel_values", "attention_mask"),
        {"text_config": _TEXT_TOWER, "vision_config": _IMAGE_TOWER, "projection_dim": 32},
    ),
    "siglip": Family(
        "SiglipModel",
        "feature-extraction",
        ("input_ids", "pixel_values", "attention_mask"),
        {"text_config": {**SMALL, "max_position_embeddings": 96, "projection_size": 64}, "vision_config": _SIGHT},
    ),
    "blip": Family(
        "BlipForConditionalGeneration",
        "image-to-text",
        ("pixel_values", "input_ids", "attention_mask"),
        {
            "text_config": {**SMALL, **_IDS, "encoder_hidden_size": 64, "sep_token_id": 3},
            "vision_config": _SIGHT,
            "projection_dim": 32,
            "image_text_hidden_size": 32,
        },
    ),
}
"""Every family by name."""
