"""Watch a network: what its selecting layers choose, or every call of its modules."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields, is_dataclass
from functools import partial
from typing import Any

from torch import Tensor, nn

from .selection import Selection


@dataclass(frozen=True)
class Choice:
    """One call of a layer that selects.

    ``layer`` is its name in the network and ``module`` itself; ``x`` ``(N, C, *space)`` is the map that it was given,
    with the filter ``blur`` where it was to look at ``blur(x)``.
    """

    layer: str
    module: nn.Module
    x: Tensor
    blur: nn.Module | None
    selection: Selection

    @property
    def scores(self) -> Tensor:
        """Logits (LPD) or norms (APS), ``(N, P)``."""
        return self.selection.scores

    @property
    def phase(self) -> Tensor | None:
        """The phase that was kept, ``(N,)`` int64; ``None`` for a mixture, as LPD trains with."""
        return self.selection.phase

    @property
    def seen(self) -> Tensor:
        """The map whose phases were scored, ``(N, C, *space)``."""
        return self.x if self.blur is None else self.blur(self.x)


@contextmanager
def watch(network: nn.Module, note: Callable[[Choice], object] | None = None) -> Iterator[list[Choice]]:
    """Gather what the layers of ``network`` choose, in the order of their calls.

    >>> network = lps.ResNet(18, classes=10, sampling=lps.Sampling.named("lps", "tri-3")).eval()
    >>> with lps.watch(network) as choices:
    ...     logits = network(torch.randn(2, 3, 64, 64))
    >>> [choice.layer for choice in choices][:2]
    ['stem.samplers.0.select', 'stem.samplers.1.select']
    >>> choices[0].scores.shape, choices[0].phase.shape
    (torch.Size([2, 4]), torch.Size([2]))

    ``note`` is called with each choice as it is made, in the place of the list, which keeps every map alive. A layer
    selects where its output is a :class:`~lps.selection.Selection`; a shortcut that follows another's choice does not.
    """
    choices: list[Choice] = []
    record = choices.append if note is None else note

    def hook(name: str, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        if isinstance(output, Selection):
            given: list[Any] = [*args, *kwargs.values()]
            x, blur = given[0], next((other for other in given[1:] if isinstance(other, nn.Module)), None)
            detached = output._replace(scores=output.scores.detach(), z=output.z.detach())
            record(Choice(name, module, x.detach(), blur, detached))

    with calls(network, hook):
        yield choices


@contextmanager
def calls(network: nn.Module, hook: Callable[[str, nn.Module, Any, Any, Any], Any]) -> Iterator[None]:
    """Call ``hook`` with the name, module, arguments and output of every call of a module, in the order in which they
    end; what it returns but ``None`` takes the place of the output."""
    handles = [
        module.register_forward_hook(partial(hook, name), with_kwargs=True) for name, module in network.named_modules()
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def tensors(value: Any, apart: type | tuple[type, ...] = ()) -> list[Tensor]:
    """All tensors in a value: itself, or those in a mapping, a sequence or a data class, however deep.

    >>> tensors({"a": torch.zeros(2), "b": [torch.ones(1), "word"]})
    [tensor([0., 0.]), tensor([1.])]

    What is of a type set ``apart`` is left out.
    """
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, Mapping):
        value = list(value.values())
    elif is_dataclass(value):
        value = [getattr(value, part.name) for part in fields(value)]
    within = isinstance(value, tuple | list) and not isinstance(value, apart)
    return [found for part in value for found in tensors(part, apart)] if within else []
