"""Which polyphase component to keep: the largest norm (APS) or a learned choice (LPD), Secs. 3, 4.1 and 4.2.

Standard downsampling, Eq. (4), needs no selection: it always keeps phase 0.
"""

from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .exact.convolution import CONV, CONVOLVE, Padding, pad, require_padding
from .exact.fused import Filter, phase_logits, phase_norms
from .exact.ties import Origin, choose_phase
from .polyphase import Stride


class Selection(NamedTuple):
    """A choice among the ``P`` phases of a batch of ``N`` maps.

    >>> y, selection = lps.Downsample(lps.MaxNorm())(torch.randn(5, 3, 8, 8))
    >>> selection.scores.shape, selection.z.shape, selection.phase.shape
    (torch.Size([5, 4]), torch.Size([5, 4]), torch.Size([5]))

    ``scores`` ``(N, P)`` are the logits (LPD) or norms (APS) behind it and ``z`` ``(N, P)`` the selection variable
    of Eq. (17). For a hard choice, ``phase`` ``(N,)`` is ``k*`` of Eq. (7), ``z`` is one-hot or equal over phases that
    stay tied, and ``lag`` ``(N, P, dims)`` says how far their components are moved from that of ``k*``. ``origin`` says
    where the kept positions come from, for the next choice to break its ties by. A mixture has the first two only.
    """

    scores: Tensor
    z: Tensor
    phase: Tensor | None = None
    lag: Tensor | None = None
    origin: Origin | None = None


def choose(scores: Tensor, x: Tensor, stride: Stride, origin: Origin | None = None) -> Selection:
    """Hard selection ``k* = argmax_k scores_k`` (Eq. 7), ``scores`` ``(N, P)``, of the phases of ``x``.

    Equal scores are told apart by the content of the image that ``x`` comes from (``origin``), so that the choice moves
    with every shift of it, and so does what other maps of the image keep by it. Without ``origin``, ``x`` stands for
    the image. What is kept of ``x`` then still moves with its shifts; but where components of ``x`` are equal, those of
    another map that shares the choice may not be, and what that map keeps need not move along. An ONNX graph takes the
    first of equal scores. Raises ``ValueError`` where a score is NaN.
    """
    origin = Origin(x) if origin is None else origin
    if origin.space != tuple(x.shape[2:]):
        raise ValueError(f"a map {tuple(x.shape)} was said to come from positions {origin.space} of its images")
    z, phase, lag, seen = choose_phase(scores, origin, stride)
    return Selection(scores, z, phase, lag, origin.below(phase, stride, seen))


class MaxNorm(nn.Module):
    """APS: keep the component with the largest l2 norm, Eqs. (5), (18) and (19).

    >>> x = torch.zeros(1, 1, 4, 4)
    >>> x[..., 1::2, 0::2] = 1.0  # rows 1, 3 and columns 0, 2: phase 2
    >>> lps.MaxNorm()(x).phase
    tensor([2])

    ``(N, C, *space)`` to :class:`Selection`. Nothing is learned, and training keeps one component too.
    """

    def __init__(self, stride: Stride = 2) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, x: Tensor, origin: Origin | None = None) -> Selection:
        """``k* = argmax_k ||Poly(x)_k||_2``, Eq. (5); see :func:`choose` for ``origin``."""
        norms = phase_norms(x.detach(), self.stride, exact=not self.training)
        return choose(norms, x, self.stride, origin)


class LearnedPhase(nn.Module):
    """LPD's choice: logits from a small network that all components share, Eqs. (20) and (23).

    >>> select = lps.LearnedPhase(channels=64, hidden=8)
    >>> mixture = select(torch.randn(5, 64, 8, 8))
    >>> mixture.z.shape, mixture.phase is None
    (torch.Size([5, 4]), True)
    >>> select.eval()(torch.randn(5, 64, 8, 8)).phase.shape
    torch.Size([5])

    ``f_theta`` is convolution (3, ``channels`` to ``hidden``), ReLU, convolution (3, ``hidden`` to ``hidden``), then
    the mean over channels and space. In training ``z`` is a Gumbel-softmax sample at temperature ``tau`` (Eq. 17);
    in evaluation ``z`` is one-hot at the largest logit (Eq. 7). ``(N, C, *space)`` to :class:`Selection`. Of few
    ``hidden`` channels, as of one or two, all may be shut by their ReLUs: then all logits are equal, and none learns.
    Raises ``ValueError`` for less than one channel and for a padding that there is not.
    """

    tau: Tensor

    def __init__(
        self, channels: int, hidden: int, stride: Stride = 2, padding: Padding = "circular", dims: int = 2
    ) -> None:
        super().__init__()
        if min(channels, hidden) < 1:
            raise ValueError(
                f"expected at least 1 channel and 1 hidden channel, got {channels} and {hidden}; an eighth of few "
                "channels is max(1, channels // 8)"
            )
        require_padding(padding)
        self.conv1 = CONV[dims](channels, hidden, 3)
        self.conv2 = CONV[dims](hidden, hidden, 3)
        self.register_buffer("tau", torch.ones(()))
        self.stride: Stride = stride
        self.padding: Padding = padding

    def reset_parameters(self) -> None:
        """New weights, drawn from torch's global generator as those of a new layer are."""
        self.conv1.reset_parameters()
        self.conv2.reset_parameters()

    def component_logit(self, component: Tensor) -> Tensor:
        """``f_theta`` of one component, as Eq. (23) states it: ``(N, C, *space)`` to ``(N,)``.

        The definition that :meth:`logits` is tested against.
        """
        convolve = CONVOLVE[component.dim() - 2]
        hidden = convolve(pad(component, 1, 1, self.padding), self.conv1.weight, self.conv1.bias).relu()
        return convolve(pad(hidden, 1, 1, self.padding), self.conv2.weight, self.conv2.bias).flatten(1).mean(1)

    def logits(self, x: Tensor, blur: Filter | None = None) -> Tensor:
        """Logits ``(N, P)`` of all components of ``x`` ``(N, C, *space)``, or of ``blur(x)``, without splitting it."""
        channels, dims = self.conv1.in_channels, len(self.conv1.kernel_size)
        if x.dim() != dims + 2 or x.shape[1] != channels:
            axes = ", ".join("DHW"[-dims:])
            raise ValueError(f"a choice among maps (N, {channels}, {axes}) was handed one {tuple(x.shape)}")
        return phase_logits(x, self.conv1, self.conv2, self.stride, self.padding, not self.training, blur)

    def sample(self, logits: Tensor) -> Tensor:
        """``z`` in training, ``(N, P)``: a Gumbel-softmax sample from ``p`` of Eq. (20), the softmax of the logits."""
        return F.gumbel_softmax(logits, cast(float, self.tau))

    def forward(self, x: Tensor, blur: Filter | None = None, origin: Origin | None = None) -> Selection:
        """Choose among the phases of ``x``, or of ``blur(x)``; in evaluation ties are broken as in :func:`choose`."""
        logits = self.logits(x, blur)  # Eq. (23)
        if self.training:
            return Selection(logits, self.sample(logits))  # Eqs. (17) and (20)
        return choose(logits, x, self.stride, origin)  # Eq. (7)

    def extra_repr(self) -> str:
        return f"stride={self.stride}, padding={self.padding!r}"
