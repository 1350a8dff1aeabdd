"""Small configurations of architectures that others wrote, and what stands in front of weights.

Each line of a table is a weight, the law in front of it and its fan-in, checked by hand against the
model's source: its `forward`, and the activation that its configuration names.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import nn

FAMILIES = (
    "gpt2",
    "llama",
    "mistral",
    "qwen2",
    "gemma",
    "mixtral",
    "t5",
    "albert",
    "clip",
    "phi",
    "bloom",
    "xlnet",
)


class Architecture(NamedTuple):
    """A model by the names of its class and configuration, and what it is called with."""

    model: str
    config: str
    settings: dict[str, Any]
    inputs: tuple[str, ...]
    table: str

    def build(self) -> nn.Module:
        """Make the model with random weights."""
        import transformers

        torch.manual_seed(0)
        config = getattr(transformers, self.config)(**self.settings)
        model: nn.Module = getattr(transformers, self.model)(config)
        return model

    def example(self) -> dict[str, torch.Tensor]:
        """Make the arguments of its forward."""
        torch.manual_seed(0)
        return {name.partition("=")[0]: INPUTS[name]() for name in self.inputs}

    def laws(self) -> dict[str, tuple[str, int]]:
        """The table: law and fan-in by weight."""
        lines = (line.split() for line in self.table.strip().splitlines())
        return {name: (law, int(fan_in)) for name, law, fan_in in lines}


INPUTS = {
    "input_ids": lambda: torch.randint(0, 64, (2, 12)),
    "decoder_input_ids": lambda: torch.randint(0, 64, (2, 12)),
    "pixel_values": lambda: torch.randn(2, 3, 16, 16),
    "pixel_values=32": lambda: torch.randn(2, 3, 32, 32),
    "inputs": lambda: torch.randn(2, 12, 32),
    "input_features": lambda: torch.randn(2, 8, 32),
}
SMALL: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}
WIDE = {**SMALL, "intermediate_size": 48}
LLAMA = {**WIDE, "num_key_value_heads": 2, "max_position_embeddings": 64}

ZOO: dict[str, Architecture] = {
    "gpt2": Architecture(
        "GPT2LMHeadModel",
        "GPT2Config",
        {"vocab_size": 64, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64},
        ("input_ids",),
        """
transformer.h.0.attn.c_attn linear 32
transformer.h.0.attn.c_proj linear 32
transformer.h.0.mlp.c_fc linear 32
transformer.h.0.mlp.c_proj gelu_tanh 128
transformer.h.1.mlp.c_proj gelu_tanh 128
""",
    ),
    "llama": Architecture(
        "LlamaForCausalLM",
        "LlamaConfig",
        dict(**LLAMA),
        ("input_ids",),
        """
model.layers.0.self_attn.q_proj linear 32
model.layers.0.self_attn.v_proj linear 32
model.layers.0.self_attn.o_proj linear 32
model.layers.0.mlp.gate_proj linear 32
model.layers.0.mlp.up_proj linear 32
model.layers.0.mlp.down_proj swiglu 48
lm_head linear 32
""",
    ),
    "mistral": Architecture(
        "MistralForCausalLM",
        "MistralConfig",
        dict(**LLAMA),
        ("input_ids",),
        """
model.layers.0.self_attn.q_proj linear 32
model.layers.0.self_attn.v_proj linear 32
model.layers.0.self_attn.o_proj linear 32
model.layers.0.mlp.gate_proj linear 32
model.layers.0.mlp.up_proj linear 32
model.layers.0.mlp.down_proj swiglu 48
lm_head linear 32
""",
    ),
    "qwen2": Architecture(
        "Qwen2ForCausalLM",
        "Qwen2Config",
        dict(**LLAMA),
        ("input_ids",),
        """
model.layers.0.self_attn.q_proj linear 32
model.layers.0.self_attn.v_proj linear 32
model.layers.0.self_attn.o_proj linear 32
model.layers.0.mlp.gate_proj linear 32
model.layers.0.mlp.up_proj linear 32
model.layers.0.mlp.down_proj swiglu 48
lm_head linear 32
""",
    ),
    "qwen3": Architecture(
        "Qwen3ForCausalLM",
        "Qwen3Config",
        dict(**LLAMA, head_dim=8),
        ("input_ids",),
        """
model.layers.0.self_attn.q_proj linear 32
model.layers.0.self_attn.v_proj linear 32
model.layers.0.self_attn.o_proj linear 32
model.layers.0.mlp.gate_proj linear 32
model.layers.0.mlp.up_proj linear 32
model.layers.0.mlp.down_proj swiglu 48
lm_head linear 32
""",
    ),
    "gemma": Architecture(
        "GemmaForCausalLM",
        "GemmaConfig",
        dict(**LLAMA, head_dim=8),
        ("input_ids",),
        """
model.layers.0.self_attn.q_proj linear 32
model.layers.0.self_attn.v_proj linear 32
model.layers.0.self_attn.o_proj linear 32
model.layers.0.mlp.gate_proj linear 32
model.layers.0.mlp.up_proj linear 32
model.layers.0.mlp.down_proj geglu_tanh 48
""",
    ),
    "gemma2": Architecture(
        "Gemma2ForCausalLM",
        "Gemma2Config",
        dict(**LLAMA, head_dim=8),
        ("input_ids",),
        """
model.layers.0.self_attn.q_proj linear 32
model.layers.0.self_attn.v_proj linear 32
model.layers.0.self_attn.o_proj linear 32
model.layers.0.mlp.gate_proj linear 32
model.layers.0.mlp.up_proj linear 32
model.layers.0.mlp.down_proj geglu_tanh 48
""",
    ),
    "mixtral": Architecture(
        "MixtralForCausalLM",
        "MixtralConfig",
        dict(**LLAMA, num_local_experts=4),
        ("input_ids",),
        """
model.layers.0.mlp.gate linear 32
model.layers.0.mlp.experts.gate_up_proj linear 32
model.layers.0.mlp.experts.down_proj swiglu 48
model.layers.1.self_attn.o_proj linear 32
lm_head linear 32
""",
    ),
    "t5": Architecture(
        "T5ForConditionalGeneration",
        "T5Config",
        {
            "vocab_size": 64,
            "d_model": 32,
            "d_kv": 8,
            "d_ff": 48,
            "num_layers": 2,
            "num_heads": 4,
            "feed_forward_proj": "gated-gelu",
        },
        (
            "input_ids",
            "decoder_input_ids",
        ),
        """
encoder.block.0.layer.0.SelfAttention.q linear 32
encoder.block.0.layer.0.SelfAttention.o linear 32
encoder.block.0.layer.1.DenseReluDense.wi_0 linear 32
encoder.block.0.layer.1.DenseReluDense.wi_1 linear 32
encoder.block.0.layer.1.DenseReluDense.wo geglu_tanh 48
decoder.block.1.layer.1.EncDecAttention.k linear 32
decoder.block.1.layer.2.DenseReluDense.wo geglu_tanh 48
""",
    ),
    "t5relu": Architecture(
        "T5ForConditionalGeneration",
        "T5Config",
        {"vocab_size": 64, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4},
        (
            "input_ids",
            "decoder_input_ids",
        ),
        """
encoder.block.0.layer.1.DenseReluDense.wi linear 32
encoder.block.0.layer.1.DenseReluDense.wo relu 48
decoder.block.1.layer.2.DenseReluDense.wo relu 48
""",
    ),
    "albert": Architecture(
        "AlbertModel",
        "AlbertConfig",
        dict(**SMALL, embedding_size=16, intermediate_size=48),
        ("input_ids",),
        """
encoder.embedding_hidden_mapping_in linear 16
encoder.albert_layer_groups.0.albert_layers.0.attention.query linear 32
encoder.albert_layer_groups.0.albert_layers.0.attention.dense linear 32
encoder.albert_layer_groups.0.albert_layers.0.ffn linear 32
encoder.albert_layer_groups.0.albert_layers.0.ffn_output gelu_tanh 48
pooler linear 32
""",
    ),
    "clip": Architecture(
        "CLIPModel",
        "CLIPConfig",
        {
            "text_config": {**WIDE, "max_position_embeddings": 64},
            "vision_config": {
                "hidden_size": 32,
                "intermediate_size": 48,
                "num_hidden_layers": 2,
                "num_attention_heads": 4,
                "image_size": 16,
                "patch_size": 4,
            },
        },
        (
            "input_ids",
            "pixel_values",
        ),
        """
text_model.encoder.layers.0.self_attn.q_proj linear 32
text_model.encoder.layers.0.mlp.fc1 linear 32
text_model.encoder.layers.0.mlp.fc2 quick_gelu 48
vision_model.embeddings.patch_embedding linear 48
vision_model.encoder.layers.1.mlp.fc2 quick_gelu 48
visual_projection linear 32
text_projection linear 32
""",
    ),
    "phi": Architecture(
        "PhiForCausalLM",
        "PhiConfig",
        dict(**WIDE),
        ("input_ids",),
        """
model.layers.0.self_attn.q_proj linear 32
model.layers.0.self_attn.dense linear 32
model.layers.0.mlp.fc1 linear 32
model.layers.0.mlp.fc2 gelu_tanh 48
lm_head linear 32
""",
    ),
    "bloom": Architecture(
        "BloomForCausalLM",
        "BloomConfig",
        {"vocab_size": 64, "hidden_size": 32, "n_layer": 2, "n_head": 4},
        ("input_ids",),
        """
transformer.h.0.self_attention.query_key_value linear 32
transformer.h.0.self_attention.dense linear 32
transformer.h.0.mlp.dense_h_to_4h linear 32
transformer.h.0.mlp.dense_4h_to_h gelu_tanh 128
""",
    ),
    "xlnet": Architecture(
        "XLNetLMHeadModel",
        "XLNetConfig",
        {"vocab_size": 64, "d_model": 32, "n_layer": 2, "n_head": 4, "d_inner": 48},
        ("input_ids",),
        """
transformer.layer.0.rel_attn.q linear 32
transformer.layer.0.rel_attn.k linear 32
transformer.layer.0.rel_attn.v linear 32
transformer.layer.0.rel_attn.o linear 32
transformer.layer.0.rel_attn.r linear 32
transformer.layer.0.ff.layer_1 linear 32
transformer.layer.0.ff.layer_2 gelu 48
""",
    ),
    "bert": Architecture(
        "BertModel",
        "BertConfig",
        dict(**WIDE),
        ("input_ids",),
        """
encoder.layer.0.attention.self.query linear 32
encoder.layer.0.attention.output.dense linear 32
encoder.layer.0.intermediate.dense linear 32
encoder.layer.0.output.dense gelu 48
pooler.dense linear 32
""",
    ),
    "gptneox": Architecture(
        "GPTNeoXForCausalLM",
        "GPTNeoXConfig",
        dict(**WIDE),
        ("input_ids",),
        """
gpt_neox.layers.0.attention.query_key_value linear 32
gpt_neox.layers.0.attention.dense linear 32
gpt_neox.layers.0.mlp.dense_h_to_4h linear 32
gpt_neox.layers.0.mlp.dense_4h_to_h gelu 48
lm_head linear 32
""",
    ),
    "mamba": Architecture(
        "MambaForCausalLM",
        "MambaConfig",
        {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "state_size": 4},
        ("input_ids",),
        """
backbone.layers.0.mixer.in_proj linear 32
backbone.layers.0.mixer.x_proj silu 64
""",
    ),
    "vit": Architecture(
        "ViTModel",
        "ViTConfig",
        {
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "intermediate_size": 48,
            "image_size": 16,
            "patch_size": 4,
        },
        ("pixel_values",),
        """
embeddings.patch_embeddings.projection linear 48
layers.0.attention.q_proj linear 32
layers.0.attention.o_proj linear 32
layers.0.mlp.fc1 linear 32
layers.0.mlp.fc2 gelu 48
pooler.dense linear 32
""",
    ),
    "convnext": Architecture(
        "ConvNextModel",
        "ConvNextConfig",
        {"hidden_sizes": [8, 16, 16, 16], "depths": [1, 1, 1, 1], "image_size": 32},
        ("pixel_values=32",),
        """
embeddings.patch_embeddings linear 48
encoder.stages.0.layers.0.dwconv linear 49
encoder.stages.0.layers.0.pwconv1 linear 8
encoder.stages.0.layers.0.pwconv2 gelu 32
encoder.stages.2.downsampling_layer.1 linear 64
""",
    ),
    "deberta": Architecture(
        "DebertaV2Model",
        "DebertaV2Config",
        dict(**WIDE),
        ("input_ids",),
        """
encoder.layer.0.attention.self.query_proj linear 32
encoder.layer.0.attention.output.dense linear 32
encoder.layer.0.intermediate.dense linear 32
encoder.layer.0.output.dense gelu 48
""",
    ),
    "whisper": Architecture(
        "WhisperModel",
        "WhisperConfig",
        {
            "vocab_size": 64,
            "d_model": 32,
            "encoder_layers": 1,
            "decoder_layers": 1,
            "encoder_attention_heads": 4,
            "decoder_attention_heads": 4,
            "encoder_ffn_dim": 48,
            "decoder_ffn_dim": 48,
            "num_mel_bins": 8,
            "max_source_positions": 16,
            "pad_token_id": 0,
            "bos_token_id": 0,
            "eos_token_id": 0,
            "decoder_start_token_id": 0,
        },
        (
            "input_features",
            "decoder_input_ids",
        ),
        """
encoder.conv1 linear 24
encoder.conv2 gelu 96
encoder.layers.0.fc2 gelu 48
decoder.layers.0.self_attn.q_proj linear 32
decoder.layers.0.encoder_attn.k_proj linear 32
decoder.layers.0.fc2 gelu 48
""",
    ),
    "opt": Architecture(
        "OPTForCausalLM",
        "OPTConfig",
        dict(**SMALL, ffn_dim=48, word_embed_proj_dim=32, max_position_embeddings=64),
        ("input_ids",),
        """
model.decoder.layers.0.self_attn.k_proj linear 32
model.decoder.layers.0.self_attn.out_proj linear 32
model.decoder.layers.0.fc1 linear 32
model.decoder.layers.0.fc2 relu 48
""",
    ),
    "gptj": Architecture(
        "GPTJForCausalLM",
        "GPTJConfig",
        {"vocab_size": 64, "n_embd": 32, "n_layer": 2, "n_head": 4, "rotary_dim": 4},
        ("input_ids",),
        """
transformer.h.0.attn.k_proj linear 32
transformer.h.0.attn.out_proj linear 32
transformer.h.0.mlp.fc_in linear 32
transformer.h.0.mlp.fc_out gelu_tanh 128
lm_head linear 32
""",
    ),
    "gpt_oss": Architecture(
        "GptOssForCausalLM",
        "GptOssConfig",
        dict(**LLAMA, head_dim=8, num_local_experts=4, num_experts_per_tok=2),
        ("input_ids",),
        """
model.layers.0.mlp.router linear 32
model.layers.0.mlp.experts.gate_up_proj linear 32
model.layers.0.self_attn.o_proj linear 32
""",
    ),
    "swin": Architecture(
        "SwinModel",
        "SwinConfig",
        {
            "image_size": 32,
            "patch_size": 4,
            "embed_dim": 16,
            "depths": [1, 1],
            "num_heads": [2, 4],
            "window_size": 4,
        },
        ("pixel_values=32",),
        """
embeddings.patch_embeddings.projection linear 48
encoder.layers.0.blocks.0.attention.q_proj linear 16
encoder.layers.0.blocks.0.mlp.fc2 gelu 64
encoder.layers.0.downsample.reduction linear 64
""",
    ),
    "falcon": Architecture(
        "FalconForCausalLM",
        "FalconConfig",
        dict(**SMALL),
        ("input_ids",),
        """
transformer.h.0.self_attention.query_key_value linear 32
transformer.h.0.self_attention.dense linear 32
transformer.h.0.mlp.dense_h_to_4h linear 32
transformer.h.0.mlp.dense_4h_to_h gelu 128
""",
    ),
    "perceiver": Architecture(
        "PerceiverModel",
        "PerceiverConfig",
        {
            "num_latents": 8,
            "d_latents": 32,
            "d_model": 32,
            "num_blocks": 1,
            "num_self_attends_per_block": 1,
            "num_self_attention_heads": 4,
            "num_cross_attention_heads": 4,
        },
        ("inputs",),
        """
encoder.cross_attention.attention.self.key linear 32
encoder.cross_attention.mlp.dense1 linear 32
encoder.cross_attention.mlp.dense2 gelu 32
encoder.self_attends.0.mlp.dense2 gelu 32
""",
    ),
    "resnet": Architecture(
        "ResNetModel",
        "ResNetConfig",
        {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1]},
        ("pixel_values=32",),
        """
embedder.embedder.convolution linear 147
encoder.stages.0.layers.0.layer.0.convolution relu_max_pool 8
encoder.stages.0.layers.0.layer.2.convolution relu 2
""",
    ),
}
