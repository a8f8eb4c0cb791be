"""The survey of ``python -m lps survey families``: which networks that people use convert, and why others do not.

Each is converted as :func:`lps.convert` comes, and then tried by a test of its own: its outputs for images of other
sizes, one at a time, and for circular shifts of them are compared bit for bit.
"""

import inspect
import json
import math
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from fnmatch import fnmatch
from importlib.util import find_spec
from itertools import product
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from ..convert import ConvertError, Head, conversion_report, convert
from ..convert.check import drawn
from ..experiments.jobs import default_jobs, forks
from ..experiments.records import code_version, is_current, now, write_json
from ..machine import hardware, versions
from ..polyphase import steps
from ..watch import tensors

LIBRARIES = {
    "torchvision": "torchvision",
    "timm": "timm",
    "smp": "segmentation_models_pytorch",
    "monai": "monai",
}
"""Modules by the names that stand before a colon."""

DECODERS = (
    *("Unet", "UnetPlusPlus", "MAnet", "Linknet", "FPN", "PSPNet", "PAN", "DeepLabV3", "DeepLabV3Plus"),
    *("UPerNet", "Segformer"),
)
ENCODERS = ("resnet18", "mobilenet_v2", "efficientnet-b0")

_SMALL: dict[str, Any] = {"channels": (8, 16, 32), "strides": (2, 2)}
_CHANNELS: dict[str, Any] = {"in_channels": 1, "out_channels": 2}
MONAI: Mapping[str, Mapping[str, Any]] = {
    **{f"UNet {dims}d": {**_CHANNELS, **_SMALL, "num_res_units": 2, "spatial_dims": dims} for dims in (2, 3)},
    **{f"BasicUNet {dims}d": {**_CHANNELS, "features": (8, 8, 16, 32, 64, 8), "spatial_dims": dims} for dims in (2, 3)},
    "BasicUNetPlusPlus 2d": {**_CHANNELS, "features": (8, 8, 16, 32, 64, 8), "spatial_dims": 2},
    **{f"SegResNet {dims}d": {**_CHANNELS, "spatial_dims": dims} for dims in (2, 3)},
    "DynUNet 2d": {
        **{**_CHANNELS, "spatial_dims": 2, "kernel_size": [3, 3, 3], "strides": [1, 2, 2]},
        "upsample_kernel_size": [2, 2],
    },
    "VNet 2d": {**_CHANNELS, "spatial_dims": 2},
    "AttentionUnet 2d": {**_CHANNELS, **_SMALL, "spatial_dims": 2},
    "FlexibleUNet 2d": {**_CHANNELS, "backbone": "efficientnet-b0"},
    "HighResNet 2d": {**_CHANNELS, "spatial_dims": 2},
    "DenseNet121 2d": {**_CHANNELS, "spatial_dims": 2},
    "SEResNet50 2d": {"spatial_dims": 2, "in_channels": 1},
    "resnet18 3d": {"spatial_dims": 3, "n_input_channels": 1, "num_classes": 2},
    "EfficientNetBN 2d": {"model_name": "efficientnet-b0", "pretrained": False},
}
"""Settings of the networks of MONAI, small ones, by class and number of axes."""

_TIMM = """
bat_resnext26ts convformer_s18 convmixer_1024_20_ks9_p14 convmixer_768_32 convnext_atto convnext_atto_ols
convnext_atto_rms convnext_tiny convnext_tiny_hnf convnext_zepto_rms_ols convnextv2_atto convnextv2_tiny
cs3darknet_focus_s cs3darknet_s cs3edgenet_x cs3sedarknet_l cs3sedarknet_xdw cspdarknet53 cspnext_tiny cspresnet50
cspresnet50d cspresnext50 darknet17 darknetaa53 densenet121 densenetblur121d dla34 dla46_c dla46x_c dla60_res2net
dla60_res2next dm_nfnet_f0 dpn48b dpn68 dpn92 eca_nfnet_l0 eca_resnet33ts eca_resnext26ts eca_vovnet39b ecaresnet26t
ecaresnetlight ecaresnext26t_32x4d efficientnet_b0_g8_gn efficientnet_b0_gn efficientnet_blur_b0 efficientnet_cc_b0_4e
efficientnet_es efficientnet_lite0 efficientnet_x_b3 efficientnetv2_rw_s efficientnetv2_rw_t efficientvim_m1
ese_vovnet19b_slim ese_vovnet19b_slim_dw ese_vovnet39b_evos fasternet_t0 fasternet_t1 fasternet_t2 fastvit_t8
fbnetc_100 fbnetv3_b focalnet_tiny_lrf focalnet_tiny_srf gc_efficientnetv2_rw_t gcresnet33ts gcresnet50t gcresnext26ts
gernet_s ghostnet_050 ghostnetv2_100 ghostnetv3_050 hardcorenas_b hgnet_tiny hgnetv2_b0 hgnetv2_b4 hrnet_w18_small
inception_next_atto inception_next_tiny inception_resnet_v2 inception_v3 inception_v4 lcnet_035 lcnetv2_small
legacy_seresnet18 legacy_seresnet50 legacy_seresnext26_32x4d legacy_xception mambaout_femto mambaout_small_rw mixnet_m
mixnet_s mnasnet_050 mnasnet_small mobilenet_edgetpu_100 mobilenet_edgetpu_v2_l mobilenet_edgetpu_v2_s
mobilenet_edgetpu_v2_xs mobilenetv1_100 mobilenetv2_035 mobilenetv3_small_050 mobilenetv4_conv_aa_medium
mobilenetv4_conv_blur_medium mobilenetv4_conv_medium mobilenetv4_conv_small_035 mobileone_s1 nasnetalarge
nf_ecaresnet26 nf_regnet_b0 nf_resnet26 nf_seresnet26 nfnet_f0 pnasnet5large poolformer_s12 poolformerv2_s12
rdnet_tiny regnetv_040 regnetx_002 regnety_002 regnety_040_sgn regnetz_005 regnetz_b16 regnetz_b16_evos regnetz_d8
regnetz_d8_evos repghostnet_050 repvgg_a0 repvgg_b1g4 repvit_m1 res2net50_14w_8s res2net50d res2next50 resnest14d
resnest50d_1s4x24d resnet10t resnet14t resnet18 resnet26 resnet32ts resnet50_clip_gap resnet50_gn resnet50_mlp
resnet50c resnet51q resnetaa34d resnetaa50 resnetaa50d resnetblur18 resnetblur50 resnetblur50d resnetv2_18 resnetv2_18d
resnetv2_50 resnetv2_50d_evos resnetv2_50d_frn resnetv2_50d_gn resnetv2_50t resnetv2_50x1_bit resnext26ts
resnext50_32x4d resnext50d_32x4d rexnet_100 sedarknet21 selecsls42 seresnet18 seresnet33ts seresnet50 seresnet50t
seresnetaa50d seresnext26t_32x4d seresnext26ts seresnext50_32x4d skresnet18 skresnet50 skresnext50_32x4d starnet_s050
tf_efficientnet_b0 tf_efficientnet_cc_b0_4e tf_efficientnet_es tf_efficientnet_lite0 tf_efficientnetv2_b0 tf_mixnet_m
tf_mixnet_s tf_mobilenetv3_small_075 tf_mobilenetv3_small_minimal_100 tinynet_e tresnet_m vgg11 vgg11_bn vovnet39a
xception41 xception41p
"""
_TORCHVISION = """
alexnet convnext_tiny densenet121 efficientnet_b0 efficientnet_v2_s googlenet inception_v3 mnasnet0_5
mobilenet_v2 mobilenet_v3_large mobilenet_v3_small regnet_x_400mf regnet_y_400mf resnet18 resnet50 resnext50_32x4d
shufflenet_v2_x0_5 squeezenet1_0 squeezenet1_1 vgg11 vgg11_bn wide_resnet50_2
"""
_MAPS = ("fcn_resnet50", "deeplabv3_resnet50", "deeplabv3_mobilenet_v3_large", "lraspp_mobilenet_v3_large")
_OTHER_ENCODERS = ("densenet121", "vgg11_bn", "resnext50_32x4d", "se_resnet50", "tu-regnetx_002", "tu-convnext_atto")
_OF_MAPS = 12

FAMILIES: Mapping[str, Sequence[str]] = {
    "video": tuple(f"torchvision:{name}" for name in ("r3d_18", "mc3_18", "r2plus1d_18", "s3d")),
    "torchvision": tuple(f"torchvision:{name}" for name in _TORCHVISION.split()),
    "segmentation": (
        *(f"smp:{decoder}/{encoder}" for encoder in ENCODERS for decoder in DECODERS),
        *(f"smp:Unet/{encoder}" for encoder in _OTHER_ENCODERS),
        *(f"torchvision:{name}" for name in _MAPS),
        *(f"monai:{name}" for name in list(MONAI)[:_OF_MAPS]),
    ),
    "MONAI": tuple(f"monai:{name}" for name in list(MONAI)[_OF_MAPS:]),
    "timm": tuple(f"timm:{name}" for name in _TIMM.split()),
    "attention": (
        *("torchvision:vit_b_16", "torchvision:swin_t", "torchvision:maxvit_t", "timm:vit_tiny_patch16_224"),
        *("timm:edgenext_xx_small", "timm:botnet26t_256", "timm:resmlp_12_224"),
    ),
}
"""The networks tried, by what they are. Of those of timm that have no attention, by their layers' kinds, kernels and
strides, the smallest of each architecture; a few of a hundred million weights and more are left out."""

SHIFTS = 4


def named(name: str, seed: int = 0) -> nn.Module:
    """A network of a library by its name, with random weights, for evaluation."""
    library, _, model = name.partition(":")
    if library not in LIBRARIES or not model:
        raise ValueError(f"{name!r} is no network: write torchvision:resnet50 or timm:resnet26d")
    torch.manual_seed(seed)
    try:
        return _built(library, model).eval()
    except ImportError as error:
        raise ValueError(f"{name!r} needs {error.name}, which is not installed here") from error
    except Exception as error:
        raise ValueError(f"{name!r} cannot be built: {type(error).__name__}: {error}".partition("\n")[0]) from error


def _built(library: str, model: str) -> Any:
    if library == "torchvision":
        from torchvision import models

        settings: dict[str, Any] = {"weights": None}
        if "weights_backbone" in inspect.signature(models.get_model_builder(model)).parameters:
            settings["weights_backbone"] = None
        if model in ("googlenet", "inception_v3"):
            settings["init_weights"] = False
        return models.get_model(model, **settings)
    if library == "timm":
        import timm

        return timm.create_model(model)
    if library == "smp":
        import segmentation_models_pytorch

        decoder, _, encoder = model.partition("/")
        return getattr(segmentation_models_pytorch, decoder)(encoder or "resnet18", encoder_weights=None)
    from monai.networks import nets

    return getattr(nets, model.partition(" ")[0])(**MONAI[model])


def record_families(path: Path, pattern: str = "*") -> None:
    """Add a row for each network whose name matches to the record, as soon as it is tried.

    What was converted by a code of the same results stays; what was refused by another commit is tried again.
    """
    about: dict[str, Any] = {
        "code": code_version("convert"),
        "versions": versions(("torch", *LIBRARIES.values())),
        "hardware": hardware(),
        "settings": {"threads": torch.get_num_threads(), "shifts": SHIFTS},
        "command": "make families",
    }
    record = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    rows = record.get("rows", {}) if is_current(record.get("code", {}), "convert") else {}
    commit = about["code"]["commit"]

    def is_done(name: str) -> bool:
        outcome = rows.get(name, {"outcome": "not tried"})["outcome"]
        return outcome == "exact" or (outcome != "not tried" and rows[name]["commit"] == commit)

    wanted = [name for names in FAMILIES.values() for name in names if fnmatch(name, pattern) and not is_done(name)]
    absent = {library for library, module in LIBRARIES.items() if find_spec(module) is None}
    for library in sorted(absent):
        print(f"{LIBRARIES[library]} is not installed: its networks are left out", file=sys.stderr)
    for name, row in _tried([name for name in wanted if name.partition(":")[0] not in absent]):
        rows[name] = {**row, "commit": commit, "made": now()}
        write_json(path, {**about, "made": now(), "rows": rows})
        print(name, row["outcome"], row.get("reason", ""), file=sys.stderr, flush=True)


def _tried(names: Sequence[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Rows of networks, each of a process of its own: one that runs out of memory costs no other."""
    context = forks([__name__, *(module for module in LIBRARIES.values() if find_spec(module))])

    def apart(name: str) -> tuple[str, dict[str, Any]]:
        receives, sends = context.Pipe(duplex=False)
        process = context.Process(target=_send_row, args=(name, sends))
        process.start()
        sends.close()
        try:
            return name, receives.recv()
        except EOFError:
            process.join()
            return name, {"outcome": "not tried", "reason": f"its process ended with {process.exitcode}"}

    with ThreadPoolExecutor(default_jobs()) as threads:
        yield from (done.result() for done in as_completed([threads.submit(apart, name) for name in names]))


def _send_row(name: str, sends: Connection) -> None:
    sends.send(row(name))


def row(name: str) -> dict[str, Any]:
    """Convert one network, with ``head="pool"`` where it is refused without, and try what came of it."""
    began = time.process_time()
    try:
        original = named(name)
    except Exception as error:
        return {"outcome": "not tried", "reason": f"{type(error).__name__}: {error}".partition("\n")[0]}
    refusals: list[ConvertError] = []
    for head in get_args(Head):
        try:
            network = convert(original, head=head)
            break
        except ConvertError as error:
            refusals.append(error)
    else:
        return {
            "outcome": "refused",
            **{"layer": refusals[0].layer, "reason": refusals[0].reason, "seconds": time.process_time() - began},
        }
    seconds, report = time.process_time() - began, conversion_report(network)
    first = next(module for module in original.modules() if isinstance(module, _ConvNd))
    channels = 1 if name.startswith("monai:") else 3  # a network may turn positions into channels before it convolves
    images = _images(channels, report.stride, first.weight.dim() - 2)
    added = sum(map(math.prod, report.parameters.values()))
    return {
        "outcome": "exact" if follows_shifts(drawn(network, images), images) else "not exact",
        "original_exact": _follows_shifts(original, images),
        "head": head,
        "stride": report.stride,
        "strides": len(report.strides),
        "choices": sum(not stride.follows for stride in report.strides),
        "raised": len(report.raised),
        "images": list(images.shape[2:]),
        "added": added / sum(p.numel() for p in original.parameters()),
        "seconds": seconds,
    }


def _images(channels: int, stride: int | tuple[int, ...], dims: int) -> Tensor:
    """One image of a size that :func:`lps.convert` does not try."""
    size = [s * (max(3, 32 // s) + axis) for axis, s in enumerate(steps(stride, dims))]
    return torch.randn(1, channels, *size, generator=torch.Generator().manual_seed(0))


def _follows_shifts(original: nn.Module, images: Tensor) -> bool:
    """Does the network follow shifts before it is converted? No, where it takes no images of this size."""
    try:
        return follows_shifts(drawn(original, images), images)
    except Exception:
        return False


def follows_shifts(network: nn.Module, images: Tensor) -> bool:
    """Are all outputs for :data:`SHIFTS` circular shifts of ``images`` those for ``images``, bit for bit?

    Maps have to move with the images, and maps of another size by the shift in their own samples, up to one.
    """
    generator = torch.Generator().manual_seed(1)
    size, axes = images.shape[2:], tuple(range(2, images.dim()))
    with torch.inference_mode():
        outputs = tensors(network(images))
        for _ in range(SHIFTS):
            shift = [int(torch.randint(1, n, (), generator=generator)) for n in size]
            moved = tensors(network(images.roll(shift, axes)))
            if not all(_follows(y, z, shift, size) for y, z in zip(outputs, moved, strict=True)):
                return False
    return True


def _follows(y: Tensor, moved: Tensor, shift: Sequence[int], size: Sequence[int]) -> bool:
    space = y.shape[2:]
    if len(space) != len(size) or max(space) == 1:
        return torch.equal(y, moved)
    exact = [by * n / whole for by, n, whole in zip(shift, space, size, strict=True)]
    near = [sorted({math.floor(by), math.ceil(by)}) for by in exact]
    axes = tuple(range(2, y.dim()))
    return any(torch.equal(y.roll(by, axes), moved) for by in product(*near))
