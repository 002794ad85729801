"""The decoder layers of a stored model, one at a time, on the hidden states of a whole text: the streams that fits are made on.

Memory holds the streams and one decoder layer, never a model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from minigpts.model import checkpoint
from minigpts.model.spec import ArchitectureSpec

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

Call = tuple[tuple[Any, ...], dict[str, Any]]  # a decoder layer's arguments besides the hidden states

# Tokens that go through a layer at once, as whole sequences, one at least. Fixed, because the last bits of a matrix product depend
# on its shape, so neither the machine nor runtime.batch_tokens shows in the fit. The streams of all the text are far larger.
BATCH_TOKENS = 4096


def layers_of(config: PreTrainedConfig, spec: ArchitectureSpec) -> nn.ModuleList:
    """The decoder layers of an empty model, each giving its hidden states alone."""
    layers = cast(nn.ModuleList, checkpoint.empty_model(config, torch.float32).get_submodule(spec.layers))
    if spec.returns_tuple:
        for layer in layers:
            layer.register_forward_hook(lambda _, inputs, output: output[0])
    return layers


@contextmanager
def filled(module: nn.Module, tensors: Mapping[str, Tensor], device: torch.device) -> Iterator[nn.Module]:
    """Inside, the empty ``module`` holds ``tensors`` in fp32 on ``device``."""
    values = {name: tensor.to(device, torch.float32, copy=True) for name, tensor in tensors.items()}
    module.load_state_dict(values, assign=True)
    del values, tensors  # as long as one of these lives, the file it was read from stays mapped
    module.to(device)  # its buffers
    try:
        yield module
    finally:  # tables that no file holds stay
        module.load_state_dict({name: tensor.to("meta") for name, tensor in module.state_dict().items()}, assign=True)


class _CallRecorder(nn.Module):
    """In a decoder layer's place: hands its input on, or what it is told to, and keeps what it was called with."""

    def __init__(self, returns_tuple: bool) -> None:
        super().__init__()
        self.returns_tuple = returns_tuple
        self.call: Call = (), {}
        self.answer: Tensor | None = None

    def forward(self, hidden: Tensor, *args: Any, **kwargs: Any) -> Tensor | tuple[Tensor, None]:
        """The answer, or the input, as a layer gives it."""
        self.hidden, self.call = hidden, (args, kwargs)
        given = hidden if self.answer is None else self.answer
        return (given, None) if self.returns_tuple else given


@contextmanager
def around_layers(
    config: PreTrainedConfig, spec: ArchitectureSpec, stored: Mapping[str, Tensor], device: torch.device
) -> Iterator[tuple[nn.Module, list[_CallRecorder]]]:
    """Inside, the decoder with recorders in its layers' places; ``stored`` has the weights outside the layers by name."""
    model = checkpoint.empty_model(config, torch.float32)
    owner, _, attribute = spec.layers.rpartition(".")
    recorders = [_CallRecorder(spec.returns_tuple) for _ in range(config.num_hidden_layers)]
    setattr(model.get_submodule(owner), attribute, nn.ModuleList(recorders))
    prefix, layers = f"{spec.decoder}.", f"{spec.layers}."
    names = [name for name in stored if name.startswith(prefix) and not name.startswith(layers)]
    tensors = {name.removeprefix(prefix): stored[name] for name in names}
    with filled(model.get_submodule(spec.decoder), tensors, device) as decoder:
        yield decoder, recorders


def _batches(tokens: Tensor) -> tuple[Tensor, ...]:
    return tokens.split(max(BATCH_TOKENS // tokens.shape[1], 1))


def first_hidden_states(
    config: PreTrainedConfig, spec: ArchitectureSpec, stored: Mapping[str, Tensor], tokens: Tensor
) -> tuple[list[Tensor], list[list[Call]]]:
    """What the whole decoder would hand to its layers for each batch of ``tokens``: the first one's hidden states, and every
    layer's arguments besides (masks, rotary tables)."""
    streams, calls = [], []
    of_shape: dict[torch.Size, list[Call]] = {}  # batches of one shape have equal masks and tables: they are kept once
    with around_layers(config, spec, stored, tokens.device) as (decoder, recorders):
        for batch in _batches(tokens):
            decoder(input_ids=batch, use_cache=False)
            streams.append(recorders[0].hidden)
            calls.append(of_shape.setdefault(batch.shape, [recorder.call for recorder in recorders]))
    return streams, calls


def last_hidden_states(
    config: PreTrainedConfig, spec: ArchitectureSpec, stored: Mapping[str, Tensor], tokens: Tensor, stream: Sequence[Tensor]
) -> Iterator[Tensor]:
    """What the head is given for each batch of ``tokens`` whose last layer gives ``stream``: (sequences, length, hidden_size)."""
    with around_layers(config, spec, stored, tokens.device) as (decoder, recorders):
        for batch, hidden in zip(_batches(tokens), stream, strict=True):
            recorders[-1].answer = hidden
            yield decoder(input_ids=batch, use_cache=False).last_hidden_state


def advance(layer: nn.Module, stream: list[Tensor], calls: Sequence[Call]) -> None:
    """Replace each batch of the stream by what the layer makes of it."""
    for batch, (args, kwargs) in enumerate(calls):
        stream[batch] = layer(stream[batch], *args, **kwargs)


@contextmanager
def hooked(module: nn.Module, hook: Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor | None]) -> Iterator[None]:
    """Inside, ``hook`` sees what the module is given and gives, and may give something else instead."""
    handle = module.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


class _Caught(Exception):
    """A projection was reached; the rest of the layer need not run."""


def given_to(layer: nn.Module, module: str, hidden: Tensor, call: Call) -> Tensor:
    """What a projection is given, without running what comes behind it."""
    caught: list[Tensor] = []

    def catch(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        caught.append(inputs[0])
        raise _Caught

    args, kwargs = call
    handle = layer.get_submodule(module).register_forward_pre_hook(catch)
    try:
        layer(hidden, *args, **kwargs)
    except _Caught:
        pass
    finally:
        handle.remove()
    return caught[0]
