"""Qwen3-VL in the real size and in smaller ones of the same layout, for benchmarks without its weights."""

from __future__ import annotations

from transformers import Qwen3VLConfig

from lavla_ros.policy.prompt import TokenIds

INSTRUCTION = "put the mango into the bowl"
TEXT = {
    "2b": {"hidden_size": 2048, "num_hidden_layers": 28, "num_attention_heads": 16, "num_key_value_heads": 8}
    | {"head_dim": 128, "intermediate_size": 6144, "vocab_size": 151_936},
    "eighth": {"hidden_size": 256, "num_hidden_layers": 28, "num_attention_heads": 2, "num_key_value_heads": 1}
    | {"head_dim": 128, "intermediate_size": 768, "vocab_size": 18_992},
    "small": {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2}
    | {"head_dim": 8, "intermediate_size": 64, "vocab_size": 512},
}
VISION = {
    "2b": {"depth": 24, "hidden_size": 1024, "intermediate_size": 4096, "num_heads": 16, "out_hidden_size": 2048}
    | {"deepstack_visual_indexes": [5, 11, 17]},
    "eighth": {"depth": 24, "hidden_size": 128, "intermediate_size": 512, "num_heads": 2, "out_hidden_size": 256}
    | {"deepstack_visual_indexes": [5, 11, 17]},
    "small": {"depth": 3, "hidden_size": 32, "intermediate_size": 64, "num_heads": 4, "out_hidden_size": 32}
    | {"deepstack_visual_indexes": [0, 1]},
}
MROPE = {"2b": [24, 20, 20], "eighth": [24, 20, 20], "small": [2, 1, 1]}


def qwen_config(size: str, ids: TokenIds, *, deep: bool = False) -> Qwen3VLConfig:
    """That of Qwen3-VL-2B (2,127,532,032 parameters), or of something small in the same layout.

    ``deep``: with as many layers as the real one, whatever their width.
    """
    rope = {"rope_type": "default", "rope_theta": 5e6, "mrope_section": MROPE[size], "mrope_interleaved": True}
    layers, depth = TEXT["2b" if deep else size]["num_hidden_layers"], VISION["2b" if deep else size]
    return Qwen3VLConfig(
        text_config=TEXT[size] | {"rope_parameters": rope, "num_hidden_layers": layers},
        vision_config=VISION[size]
        | {key: depth[key] for key in ("depth", "deepstack_visual_indexes")}
        | {"patch_size": 16, "spatial_merge_size": 2, "temporal_patch_size": 2},
        image_token_id=ids.image,
        video_token_id=ids.video,
        vision_start_token_id=ids.vision_start,
        vision_end_token_id=ids.vision_end,
        tie_word_embeddings=True,
    )
