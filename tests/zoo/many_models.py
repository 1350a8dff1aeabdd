"""More than a hundred architectures, small and with random weights: what each is called with.

`python tests/zoo/many_models.py` prints how much of each is read, the table of docs/models.md;
`--time` compares the CPU time with AnyInit's.
"""

from __future__ import annotations

import math
import statistics
import sys
import time
import types
import warnings
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

sys.path.append(str(Path(__file__).parents[1] / "inspection"))

import harm_study
from architectures import INPUTS, SMALL, WIDE
from architectures import ZOO as TABLED
from graphs import GRAPHS
from zoo import ZOO as CLASSICAL

from lightning_init import fractional_moment_init_

Made = tuple[nn.Module, Any]
CLASSICAL_EXTRA = ("SIREN", "highway network", "focal-loss head", "Fixup", "DDPG actor")
CLASSICAL_EXTRA += ("spline flow", "MAF", "gMLP", "LSTM language model", "N-BEATS")

# Class of the model without "Config" and its head; what its configuration changes.
LANGUAGE: dict[str, tuple[str, dict[str, Any]]] = {
    "RobertaForMaskedLM": ("RobertaConfig", WIDE),
    "ElectraForMaskedLM": ("ElectraConfig", {**WIDE, "embedding_size": 32}),
    "MPNetForMaskedLM": ("MPNetConfig", WIDE),
    "FNetForMaskedLM": ("FNetConfig", {**WIDE, "use_tpu_fourier_optimizations": False}),
    "SqueezeBertForMaskedLM": ("SqueezeBertConfig", {**WIDE, "embedding_size": 32}),
    "NystromformerForMaskedLM": ("NystromformerConfig", WIDE),
    "DistilBertForMaskedLM": (
        "DistilBertConfig",
        {"vocab_size": 64, "dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 48},
    ),
    "GPTNeoForCausalLM": (
        "GPTNeoConfig",
        {
            "vocab_size": 64,
            "hidden_size": 32,
            "num_layers": 2,
            "num_heads": 4,
            "attention_types": [[["global"], 2]],
        },
    ),
    "OlmoForCausalLM": ("OlmoConfig", WIDE),
    "Olmo2ForCausalLM": ("Olmo2Config", WIDE),
    "StableLmForCausalLM": ("StableLmConfig", {**WIDE, "num_key_value_heads": 4}),
    "Starcoder2ForCausalLM": ("Starcoder2Config", {**WIDE, "num_key_value_heads": 2}),
    "CohereForCausalLM": ("CohereConfig", WIDE),
    "Phi3ForCausalLM": ("Phi3Config", {**WIDE, "pad_token_id": 0}),
    "GraniteForCausalLM": ("GraniteConfig", WIDE),
    "NemotronForCausalLM": ("NemotronConfig", {**WIDE, "num_key_value_heads": 4}),
    "GlmForCausalLM": (
        "GlmConfig",
        {**WIDE, "num_key_value_heads": 2, "head_dim": 8, "pad_token_id": 0},
    ),
    "BioGptForCausalLM": ("BioGptConfig", WIDE),
    "CodeGenForCausalLM": (
        "CodeGenConfig",
        {"vocab_size": 64, "n_embd": 32, "n_layer": 2, "n_head": 4, "rotary_dim": 4},
    ),
    "GPTBigCodeForCausalLM": (
        "GPTBigCodeConfig",
        {"vocab_size": 64, "n_embd": 32, "n_layer": 2, "n_head": 4},
    ),
    "MptForCausalLM": ("MptConfig", {"vocab_size": 64, "d_model": 32, "n_layers": 2, "n_heads": 4}),
    "BartModel": (
        "BartConfig",
        {
            "vocab_size": 64,
            "d_model": 32,
            "encoder_layers": 2,
            "decoder_layers": 2,
            "encoder_attention_heads": 4,
            "decoder_attention_heads": 4,
            "encoder_ffn_dim": 48,
            "decoder_ffn_dim": 48,
        },
    ),
}
_VISION = {**SMALL, "intermediate_size": 48, "image_size": 32, "patch_size": 8}
VISION: dict[str, tuple[str, dict[str, Any]]] = {
    "DeiTForImageClassification": ("DeiTConfig", _VISION),
    "BeitForImageClassification": ("BeitConfig", _VISION),
    "Dinov2ForImageClassification": ("Dinov2Config", _VISION),
    "ViTMAEModel": ("ViTMAEConfig", _VISION),
    "ConvNextV2ForImageClassification": (
        "ConvNextV2Config",
        {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1]},
    ),
    "RegNetForImageClassification": (
        "RegNetConfig",
        {
            "embedding_size": 8,
            "hidden_sizes": [8, 16, 24, 32],
            "depths": [1] * 4,
            "groups_width": 8,
        },
    ),
    "MobileNetV1ForImageClassification": ("MobileNetV1Config", {"depth_multiplier": 0.25}),
    "MobileNetV2ForImageClassification": ("MobileNetV2Config", {"depth_multiplier": 0.35}),
    "SegformerForImageClassification": (
        "SegformerConfig",
        {"depths": [1] * 4, "hidden_sizes": [8, 16, 24, 32], "decoder_hidden_size": 16},
    ),
    "PoolFormerForImageClassification": (
        "PoolFormerConfig",
        {"depths": [1] * 4, "hidden_sizes": [8, 16, 24, 32]},
    ),
}
TIMM = (
    *("vgg11", "resnet18", "resnext26ts", "densenet121", "mobilenetv3_small_050"),
    *("efficientnet_lite0", "convnext_atto", "mixer_s32_224", "nf_resnet26", "nf_regnet_b0"),
    *("deit_tiny_patch16_224", "regnetx_002", "ghostnet_050", "repvgg_a0", "inception_v3"),
    *("gmlp_ti16_224", "xcit_nano_12_p16_224", "edgenext_xx_small", "mobileone_s0", "dla34"),
)
TORCHVISION = """
torchvision torchvision.transforms torchvision.transforms.functional torchvision.transforms.v2
torchvision.ops torchvision.ops.misc torchvision.io torchvision.utils torchvision.datasets
torchvision.datasets.folder torchvision.models torchvision.models.feature_extraction
"""


def with_inputs(model: str, config: str, settings: dict[str, Any], *inputs: str) -> Made:
    import transformers

    net = getattr(transformers, model)(getattr(transformers, config)(**settings))
    return net, {name.partition("=")[0]: INPUTS[name]() for name in inputs}


def of_timm(name: str) -> Made:
    without_torchvision()
    import timm

    side = 224 if name.endswith("_224") else 96
    return timm.create_model(name, num_classes=10), torch.randn(2, 3, side, side)


def without_torchvision() -> None:
    """timm's models need nothing of torchvision, which its data loaders import."""
    try:
        import torchvision  # noqa: F401
    except ImportError:
        for part in TORCHVISION.split():
            sys.modules[part] = module = Nothing(part)
            parent, _, child = part.rpartition(".")
            if parent:
                setattr(sys.modules[parent], child, module)


class Nothing(types.ModuleType):
    """A module of which every name is a class that nobody makes."""

    __path__: list[str] = []
    __version__ = "0"

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        modes = ("NEAREST", "BILINEAR", "BICUBIC", "BOX", "HAMMING", "LANCZOS")
        return type(name, (), {mode: mode.lower() for mode in modes})


def of_harm(name: str) -> Made:
    case = harm_study.CASES[name]
    return case.build(), case.example(case.batch(torch.Generator().manual_seed(0)))


def architectures() -> dict[str, Callable[[], Made]]:
    found: dict[str, Callable[[], Made]] = {}
    for name, one in TABLED.items():
        found[f"transformers {one.model}" + " (relu)" * (name == "t5relu")] = lambda one=one: (
            one.build(),
            one.example(),
        )
    for models, key in ((LANGUAGE, "input_ids"), (VISION, "pixel_values=32")):
        for name, (config, settings) in models.items():
            found[f"transformers {name}"] = lambda a=(name, config, settings, key): with_inputs(*a)
    found |= {f"timm {name}": lambda name=name: of_timm(name) for name in TIMM}
    for kind, models in (("PyG", GRAPHS), ("classical", CLASSICAL)):
        found |= {
            f"{kind} {name}": lambda one=one: (one.build(), one.example())
            for name, one in models.items()
        }
    return found | {
        f"classical {name}": lambda name=name: of_harm(name) for name in CLASSICAL_EXTRA
    }


class Read(NamedTuple):
    """How the weights of one architecture were read."""

    decided: int
    assumed: int
    left_out: int
    names: tuple[str, ...]
    reasons: tuple[str, ...]


def read(make: Callable[[], Made]) -> Read:
    """Draw all weights of an architecture; everything stays finite."""
    torch.manual_seed(0)
    model, example = make()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        plan = fractional_moment_init_(model, example_input=example, respect="nothing")
    assert all(bool(p.isfinite().all()) for p in model.parameters())
    assumed = [row for row in plan.rows if row.activation.source == "assumed"]
    left_out = [one for one in plan.left_out if "matri" in one.reason or "bare" in one.reason]
    return Read(
        len(plan.rows) - len(assumed),
        len(assumed),
        len([one for one in left_out if len(one.shape) > 1]),
        tuple(row.weight.name for row in plan.rows),
        tuple(dict.fromkeys(row.activation.note for row in assumed)),
    )


def row_of(name: str, one: Read) -> str:
    return f"| {name} | {one.decided} | {one.assumed} | {one.left_out} |"


def times(runs: int = 3) -> Iterator[tuple[str, float, float, float]]:
    """Name, CPU seconds of the first and of later initializations by us, and of AnyInit's."""
    import anyinit

    def seconds(work: Callable[..., Any], *args: Any, **options: Any) -> float:
        started = time.process_time()
        work(*args, **options)
        return time.process_time() - started

    for name, make in architectures().items():
        ours, theirs = [], []
        for _ in range(runs):
            model, example = make()
            ours.append(seconds(fractional_moment_init_, model, example_input=example))
            model, example = make()
            if isinstance(example, dict):  # it takes a batch, not keywords
                example = next(iter(example.values()))
            with suppress(Exception):  # what it does not take has no time
                theirs.append(seconds(anyinit.initialize, model, "analytic", example))
        other = statistics.median(theirs[1:]) if theirs[1:] else math.nan
        yield name, ours[0], statistics.median(ours[1:]), other


def timetable() -> Iterator[str]:
    yield "| architecture | first | again | AnyInit | again / AnyInit |"
    yield "|---|---|---|---|---|"
    ratios: dict[str, list[float]] = {}
    for name, first, again, other in times():
        ratio = again / other
        cells = ["fails", "-"] if math.isnan(ratio) else [f"{1e3 * other:.0f}", f"{ratio:.2f}"]
        yield f"| {name} | {1e3 * first:.0f} | {1e3 * again:.0f} | {' | '.join(cells)} |"
        for kind in (name.split()[0], "all") if not math.isnan(ratio) else ():
            ratios.setdefault(kind, []).append(ratio)
    for kind, found in ratios.items():
        yield f"\nMedian of {len(found)} ({kind}): {statistics.median(found):.2f}"


if __name__ == "__main__":
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    if sys.argv[1:] == ["--time"]:
        lines = timetable()
    else:
        lines = (row_of(name, read(make)) for name, make in architectures().items())
    for line in lines:
        print(line, flush=True)
