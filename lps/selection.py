"""Which polyphase component to keep: the largest norm (APS) or a learned choice (LPD), Secs. 3, 4.1 and 4.2.

Standard downsampling, Eq. (4), needs no selection: it always keeps phase 0.
"""

from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .exact.convolution import CONV, CONVOLVE, Padding, convolve_circular, pad
from .exact.mean import exact_mean
from .exact.ties import Origin, choose_phase
from .filters import LowPass
from .polyphase import phase_view, require_divisible


class Selection(NamedTuple):
    """A choice among the ``P`` phases of a batch of ``N`` maps.

    ``scores`` ``(N, P)`` are the logits (LPD) or norms (APS) behind it and ``z`` ``(N, P)`` the selection variable
    of Eq. (17). For a hard choice, ``phase`` ``(N,)`` is ``k*`` of Eq. (7), ``z`` is one-hot or equal over phases that
    stay tied, and ``lag`` ``(N, P, dims)`` says how far their components are moved from that of ``k*``. ``origin`` says
    where the kept positions come from, for the next choice to break its ties by. For a mixture all three are ``None``.
    """

    scores: Tensor
    z: Tensor
    phase: Tensor | None = None
    lag: Tensor | None = None
    origin: Origin | None = None

    @property
    def weights(self) -> Tensor:
        """Share of each phase in what is kept, ``(N, P)``: ``z`` of a mixture, one-hot at ``phase`` of a choice."""
        return self.z if self.phase is None else F.one_hot(self.phase, self.z.shape[1])


def choose(scores: Tensor, x: Tensor, stride: int, origin: Origin | None = None) -> Selection:
    """Hard selection ``k* = argmax_k scores_k`` (Eq. 7), ``scores`` ``(N, P)``, of the phases of ``x``.

    Equal scores are told apart by the content of the image that ``x`` comes from (``origin``), so that the choice moves
    with every shift of it, and all maps with the choice. Without ``origin``, ``x`` is taken for the image: what is kept
    of ``x`` moves with its shifts, but maps that differ where ``x`` does not need not follow. An ONNX graph takes the
    first of equal scores. Raises ``ValueError`` where a score is NaN.
    """
    if torch.onnx.is_in_onnx_export():
        phase = scores.argmax(1)
        return Selection(scores, F.one_hot(phase, scores.shape[1]).to(scores.dtype), phase)
    origin = Origin(x) if origin is None else origin
    if origin.space != tuple(x.shape[2:]):
        raise ValueError(f"a map {tuple(x.shape)} was said to come from positions {origin.space} of its images")
    z, phase, lag = choose_phase(scores.detach(), origin.image.detach(), origin.phases, origin.strides, stride)
    return Selection(scores, z, phase, lag, origin.below(phase, stride))


def _channel_sum(x: Tensor) -> Tensor:
    """Sum over the channels of ``(N, C, *space)`` as ``(N, 1, *space)``, pairwise: the same order at each position."""
    while x.shape[1] > 1:
        half, odd = divmod(x.shape[1], 2)
        pairs = x[:, :half] + x[:, half : 2 * half]
        x = torch.cat([pairs, x[:, -1:]], 1) if odd else pairs
    return x


class MaxNorm(nn.Module):
    """APS: keep the component with the largest l2 norm, Eqs. (5), (18) and (19). ``(N, C, *space)`` to Selection."""

    def __init__(self, stride: int = 2) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, x: Tensor, origin: Origin | None = None) -> Selection:
        """In evaluation the norms are free of the order of summation; see :func:`choose` for ``origin``."""
        x = x.detach().to(torch.promote_types(x.dtype, torch.float32))
        peak = x.abs().flatten(1).amax(1).clamp_min(torch.finfo(x.dtype).tiny)  # keeps the squares in range
        squares = phase_view(_channel_sum((x / peak.view(-1, *(1,) * (x.dim() - 1))).square()), self.stride)
        dims = x.dim() - 2
        rest = tuple(range(1 + dims, squares.dim()))
        energy = squares.mean(rest) if self.training else exact_mean(squares, rest)
        size = x.shape[2:].numel() // self.stride**dims
        return choose((energy.flatten(1) * size).sqrt() * peak[:, None], x, self.stride, origin)


class LearnedPhase(nn.Module):
    """LPD's choice: logits from a small network that all components share, Eqs. (20) and (23).

    ``f_theta`` is convolution (3, ``channels`` to ``hidden``), ReLU, convolution (3, ``hidden`` to ``hidden``), then
    the mean over channels and space. In training ``z`` is a Gumbel-softmax sample at temperature ``tau`` (Eq. 17);
    in evaluation ``z`` is one-hot at the largest logit (Eq. 7). ``(N, C, *space)`` to :class:`Selection`.
    """

    tau: Tensor

    def __init__(
        self, channels: int, hidden: int, stride: int = 2, padding: Padding = "circular", dims: int = 2
    ) -> None:
        super().__init__()
        self.conv1 = CONV[dims](channels, hidden, 3)
        self.conv2 = CONV[dims](hidden, hidden, 3)
        self.register_buffer("tau", torch.ones(()))
        self.stride: int = stride
        self.padding: Padding = padding

    def component_logit(self, component: Tensor) -> Tensor:
        """``f_theta`` of one component, as Eq. (23) states it: ``(N, C, *space)`` to ``(N,)``.

        The definition that :meth:`logits` is tested against.
        """
        convolve = CONVOLVE[component.dim() - 2]
        hidden = convolve(pad(component, 1, 1, self.padding), self.conv1.weight, self.conv1.bias).relu()
        return convolve(pad(hidden, 1, 1, self.padding), self.conv2.weight, self.conv2.bias).flatten(1).mean(1)

    def logits(self, x: Tensor, blur: LowPass | None = None) -> Tensor:
        """Logits ``(N, P)`` of all components of ``x`` ``(N, C, *space)``, or of ``blur(x)``, without splitting it.

        A convolution of every component is one convolution of the map, dilated by the stride. With circular padding it
        commutes with ``blur``, which then has only the hidden channels to filter, and the second convolution and the
        mean after it collapse into one dot product. Sums are never in half precision.
        """
        require_divisible(x, self.stride)
        with torch.autocast(x.device.type, enabled=False):
            full = torch.promote_types(x.dtype, torch.float32)
            if x.device.type == "cpu" or self.padding != "circular":
                x = x.to(full)
            if blur and not self.padding == blur.padding == "circular":
                x, blur = blur(x), None
            if self.padding != "circular":
                hidden = self._dilated(x, self.conv1).relu()
                return self._phase_means(self._dilated(hidden, self.conv2).mean(1, keepdim=True))
            y = convolve_circular(x, self.conv1.weight.to(x.dtype), self.stride)
            bias = cast(Tensor, self.conv1.bias).to(full).view(-1, *(1,) * (x.dim() - 2))
            hidden = ((y if blur is None else blur(y)).to(full) + bias).relu_()
            weight, bias = (parameter.to(full) for parameter in self.conv2.parameters())
            collapsed = weight.flatten(2).sum(2).mean(0).view(-1, *(1,) * (x.dim() - 2))
            weighed = hidden * collapsed
            total = weighed.sum(1, keepdim=True) if self.training else _channel_sum(weighed)
            return self._phase_means(total) + bias.mean()

    def _dilated(self, x: Tensor, conv: nn.Module) -> Tensor:
        weight, bias = cast(Tensor, conv.weight).to(x.dtype), cast(Tensor, conv.bias).to(x.dtype)
        padded = pad(x, self.stride, self.stride, self.padding)
        return CONVOLVE[x.dim() - 2](padded, weight, bias, dilation=self.stride)

    def _phase_means(self, x: Tensor) -> Tensor:
        """Spatial mean of each phase of ``x`` ``(N, 1, *space)``, ``(N, P)``; exact, in float64, in evaluation."""
        view = phase_view(x, self.stride)
        dims = x.dim() - 2
        rest = tuple(range(1 + dims, view.dim()))
        return (view.mean(rest) if self.training else exact_mean(view, rest)).flatten(1)

    def forward(self, x: Tensor, blur: LowPass | None = None, origin: Origin | None = None) -> Selection:
        """Choose among the phases of ``x``, or of ``blur(x)``; in evaluation ties are broken as in :func:`choose`."""
        logits = self.logits(x, blur)
        if not self.training:
            return choose(logits, x, self.stride, origin)
        return Selection(logits, F.gumbel_softmax(logits, cast(float, self.tau)), None)

    def extra_repr(self) -> str:
        return f"stride={self.stride}, padding={self.padding!r}"
