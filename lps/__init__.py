"""Learnable polyphase sampling: convolutional networks that are exactly shift-invariant or shift-equivariant.

A companion to Rojas-Gomez, Lim, Schwing, Do and Yeh, *Learnable Polyphase Sampling for Shift Invariant and
Equivariant Convolutional Networks*, NeurIPS 2022. Docstrings cite the paper's equations as ``Eq. (7)``.
"""

from .convert import ConvertError, conversion_report, convert
from .deeplab import DeepLabV3Plus
from .exact.convolution import pad_to_multiple
from .exact.mean import exact_mean
from .exact.ties import Origin
from .filters import AdaptiveLowPass, LowPass
from .polyphase import circular_shift, merge, polyphase
from .probe import probe
from .resnet import ResNet
from .sampling import Downsample, Sampling, Upsample
from .selection import LearnedPhase, MaxNorm, Selection
from .verify import verify
from .watch import watch

__version__ = "0.1.0"

__all__ = [
    "AdaptiveLowPass",
    "ConvertError",
    "DeepLabV3Plus",
    "Downsample",
    "LearnedPhase",
    "LowPass",
    "MaxNorm",
    "Origin",
    "ResNet",
    "Sampling",
    "Selection",
    "Upsample",
    "circular_shift",
    "conversion_report",
    "convert",
    "exact_mean",
    "merge",
    "pad_to_multiple",
    "polyphase",
    "probe",
    "verify",
    "watch",
]
