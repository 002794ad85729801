"""Runs the calibration text through the model and stores what its MLP neurons and attention heads did, as sums."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from minigpts import artifacts, params, ranks
from minigpts.model.weights import StoredWeights, num_parameters, write_tensors

FLAGS = {
    "model": "the parent's checkpoint folder",
    "text": "calibration text, parquet with a column 'text'",
    "out": "statistics to write, safetensors",
}


@dataclass(frozen=True)
class Params:
    """The ``profile`` section."""

    sequence_length: int  # tokens in one packed sequence
    all_linear: bool  # also the inputs and outputs of every linear layer
    gradient_tokens: int  # of them, how many also go backwards, for the Taylor sums of neurons and heads

    def __post_init__(self) -> None:
        params.require(self.sequence_length >= 2, "profile.sequence_length must be ≥ 2", self.sequence_length)
        params.require(self.gradient_tokens >= 0, "profile.gradient_tokens must be ≥ 0", self.gradient_tokens)


def main(argv: Sequence[str] | None = None) -> None:
    """Profile: load the text and the model, stream one through the other, save the statistics."""
    arguments = params.flags(argv, __doc__, FLAGS)
    settings = params.read(arguments.params, Params, "profile")
    runtime = params.read(arguments.params, params.Runtime, "runtime")

    import torch

    from minigpts.model import checkpoint, packing
    from minigpts.model.device import device, require_memory
    from minigpts.model.streaming import StreamedModel
    from minigpts.profiling.gradients import taylor_sums
    from minigpts.profiling.recorder import profile

    where, weights = device(runtime), StoredWeights(arguments.model)
    if settings.gradient_tokens:
        whole = 4 * num_parameters(weights.shapes)
        require_memory(whole, where, "going backwards", "set profile.gradient_tokens to 0, and a criterion that needs none")
    packing.require_positions(checkpoint.load_config(arguments.model), settings.sequence_length, "profile.sequence_length")
    model = StreamedModel(arguments.model, where, weights)
    tokenizer = checkpoint.load_fast_tokenizer(arguments.model)
    texts = artifacts.read_table(arguments.text, ["text"])["text"]
    packed = packing.pack_texts(tokenizer, model.config, texts, settings.sequence_length)
    tokens = torch.from_numpy(packed).to(where)
    statistics = profile(model, model.spec, tokens, settings.all_linear)
    if settings.gradient_tokens:
        backwards = tokens[: max(settings.gradient_tokens // settings.sequence_length, 1)]
        statistics |= taylor_sums(checkpoint.load_model(arguments.model, torch.float32).to(where), model.spec, backwards)
    if ranks.is_main():
        write_tensors(arguments.out, statistics)


if __name__ == "__main__":
    ranks.launch(main)
