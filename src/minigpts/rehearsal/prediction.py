"""What the run will take on this machine: time and memory by stage, and disk.

Time is the run's work times what :mod:`minigpts.rehearsal.costs` measured for one layer and the head of the parent's shape. Memory
and disk are counted from the parent's shapes. The child is taken to be as large as the parent, but for the parameters that a
budget asks to remove. docs/pipeline.md says how far off that was.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from minigpts.evaluation.speech.generation import CPU_ROWS
from minigpts.model.experts import DOWN, expert_part, split_name
from minigpts.model.families import spec_for
from minigpts.model.streaming import STREAM_BYTES
from minigpts.model.weights import num_parameters
from minigpts.rehearsal.costs import Costs
from minigpts.training.block_scales import WEIGHT_BYTES
from minigpts.training.probe import CHARACTERS, LEAST_STEPS, SHARE_OF_STEPS
from minigpts.training.recipe import Recipe
from minigpts.vocabulary.embeddings import vocabulary_tensors

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

    from minigpts.model.spec import ArchitectureSpec
    from minigpts.model.weights import Shapes

START = 8.0  # seconds that Python, torch and transformers take to start a stage
LIBRARIES = 0.7e9  # bytes that they take
PROMPT = 40  # tokens of a prompt to speak to
TRIALS = 4  # of learning rates, as many as either parent took that was tried
REFIT_PASSES = 3  # through the layers: the parent, and the child for the sums and to go on
ROUNDING_PASSES = 5  # the same, and once more to what the head reads and to what each group of matrices is given
CUTS = 16  # that measure_damage tries
PLANS = 3  # that plan_budget tunes
FILE = 0.6  # bytes of a weight in an exported file, in blocks of 4.5 bits
KEPT_STATES = 2  # of tuning, on disk while the newer one is written
WRITTEN = 3  # tokens that a parent writes for one that is kept


@dataclass(frozen=True)
class Sizes:
    """The parent's."""

    layers: int
    hidden: int
    width: int  # MLP neurons of a layer that a token goes through
    rows: int  # of embedding and head together
    parameters: int
    outside: int  # parameters of embedding and head
    itemsize: int  # bytes of a weight in a checkpoint

    @classmethod
    def of(cls, config: PreTrainedConfig, shapes: Shapes) -> Sizes:
        """From the config, and the shapes of its checkpoint's tensors."""
        spec = spec_for(config.model_type)
        outside = {name: shapes[name] for name in vocabulary_tensors(spec) if name in shapes and len(shapes[name]) == 2}
        rows, total = sum(shape[0] for shape in outside.values()), num_parameters(shapes)
        width = _width(config, spec, shapes)
        return cls(config.num_hidden_layers, config.hidden_size, width, rows, total, num_parameters(outside), config.dtype.itemsize)


def _width(config: PreTrainedConfig, spec: ArchitectureSpec, shapes: Shapes) -> int:
    if spec.experts is None:
        return shapes[spec.layer(0, f"{spec.mlp_out}.weight")][spec.input_axis]
    parts = {name: expert_part(spec, split_name(spec, name)[1]) for name in shapes}
    down = next(shapes[name] for name, part in parts.items() if part is not None and part.name.endswith(f".{DOWN}"))
    return getattr(config, spec.experts.top_k_field) * down[-1] * down[-2] // config.hidden_size


@dataclass(frozen=True)
class Work:
    """What the run has to do, in tokens where nothing else is said."""

    calibration: int
    gradients: int  # of the calibration text, that go backwards
    validation: int
    test: int
    validation_questions: int
    test_questions: int
    replies: int  # how many
    reply: int  # tokens of one, at most
    tuning: Recipe
    tunes_parent: bool
    refits: bool
    budget: bool
    damage: int  # that a trial cut is measured on
    trial: int  # that a plan is tuned on
    formats: int  # of blocks, that a budget chooses from
    export: int  # that rounding is fitted to; 0: there is no file
    scales: int  # that the blocks' scales are tuned on
    written: int  # by the parent, and kept
    kept: float  # share of the parent's parameters that the child keeps at most


@dataclass(frozen=True)
class Need:
    """What a stage needs."""

    seconds: float
    memory: float = LIBRARIES  # bytes at its peak


@dataclass(frozen=True)
class Prediction:
    """Of a run on this machine."""

    parent: Sizes
    work: Work
    costs: Costs
    batch_tokens: int

    def stages(self) -> dict[str, Need]:
        """The need of every stage that computes with a model, by name, in the order of the run."""
        work, child = self.work, self.work.kept
        budget = {"measure_damage": self._damage(), "plan_budget": self._plan()} if work.budget else {}
        tuned_parent = {"tune_parent": self._tune(1.0), "evaluate@tuned_parent": self._evaluate(1.0)} if work.tunes_parent else {}
        exported = {"export": self._export(), "evaluate_exported": self._evaluate(child)} if work.export else {}
        return {
            **({"write_general": self._write()} if work.written else {}),
            "profile_activations": self._profile(),
            **budget,
            "prune_neurons": self._refit(work.calibration if work.refits else 0),
            "evaluate@base": self._evaluate(1.0),
            "finetune": self._tune(child),
            **tuned_parent,
            "evaluate@pruned": self._evaluate(child),
            "evaluate@finetuned": self._evaluate(child),
            **exported,
        }

    def disk(self) -> tuple[float, float]:
        """Bytes of the outs with their copies in DVC's cache, and of what tuning keeps until it is done."""
        parent = self.parent.parameters * self.parent.itemsize
        checkpoints = parent * (2 if self.work.tunes_parent else 1) + 3 * parent * self.work.kept
        files = self.parent.parameters * self.work.kept * FILE if self.work.export else 0
        tuned = self.work.tuning.tuned(self.parent.parameters, self.parent.outside)
        states = KEPT_STATES * (4 * self.parent.parameters + 8 * tuned)
        return 2 * (checkpoints + files), states * (1.0 if self.work.tunes_parent else self.work.kept)

    def _forward(self, tokens: float, kept: float = 1.0) -> float:
        return tokens * self.costs.forward(self.parent.layers * kept)

    def _layers(self, tokens: float) -> float:
        return tokens * self.parent.layers * self.costs.forward.layer

    def _steps(self, tokens: float, kept: float = 1.0) -> float:
        return tokens * self.costs.step(self.parent.layers * kept)

    def _weights(self, each: float = 4) -> float:
        """Memory of a model with so many bytes a weight, and of a batch on its way through it."""
        return LIBRARIES + self.parent.parameters * each + 10 * 4 * self.batch_tokens * self.parent.hidden

    def _streamed(self, tokens: float) -> float:
        """Memory of a model a layer at a time, as it is read and in fp32, or of embedding and head, and of the tokens' states."""
        sizes = self.parent
        layer = (4 + sizes.itemsize) * (sizes.parameters - sizes.outside) / sizes.layers
        held = min(4 * tokens * sizes.hidden, STREAM_BYTES) + 10 * 4 * self.batch_tokens * sizes.hidden
        return LIBRARIES + max(layer, 8 * sizes.outside) + held

    def _of_tuning(self) -> float:
        """Memory: the weights, and what one batch leaves for the backward pass."""
        recipe, sizes = self.work.tuning, self.parent
        batch = min(recipe.tokens_per_step, max(self.batch_tokens, recipe.sequence_length))
        left = 4 * batch * sizes.layers * (18 * sizes.hidden + 6 * sizes.width)
        return LIBRARIES + recipe.weight_bytes(sizes.parameters, sizes.outside) + left

    def _profile(self) -> Need:
        work = self.work
        seconds = START + self._layers(work.calibration) + 3 * self._forward(work.gradients)
        return Need(seconds, self._weights(8) if work.gradients else self._streamed(work.calibration))

    def _refit(self, tokens: float) -> Need:
        sizes, costs = self.parent, self.costs
        layer = (sizes.parameters - sizes.outside) / sizes.layers
        seconds = REFIT_PASSES * self._layers(tokens) + sizes.layers * (tokens * costs.refit_token + costs.refit) if tokens else 0.0
        streams, sums = 2 * 4 * tokens * sizes.hidden, 8 * (sizes.width**2 + 2 * sizes.width * sizes.hidden)
        return Need(START + seconds, LIBRARIES + 2 * 4 * layer + streams + sums)

    def _evaluate(self, kept: float) -> Need:
        work, sizes = self.work, self.parent
        read = work.validation + work.test + work.validation_questions + work.test_questions + work.replies * PROMPT
        batches = -(-work.replies // CPU_ROWS)
        spoken = batches * work.reply * self.costs.decode(sizes.layers * kept)
        cache = 4 * CPU_ROWS * (PROMPT + work.reply) * sizes.layers * sizes.hidden if work.replies else 0
        memory = self._weights() + cache if work.replies else self._streamed(read)
        return Need(START + self._forward(read, kept) + spoken, memory)

    def _tune(self, kept: float) -> Need:
        work, recipe = self.work, self.work.tuning
        watched = self._forward(work.validation + work.validation_questions, kept)
        seconds = self._steps(recipe.max_tokens, kept) + (1 + recipe.evaluations) * watched
        if recipe.learning_rate is None:
            trial = max(LEAST_STEPS * recipe.tokens_per_step, SHARE_OF_STEPS * recipe.max_tokens)
            scored = self._forward(min(CHARACTERS / 4, work.validation), kept)
            seconds += TRIALS * self._steps(trial, kept) + (TRIALS + 1) * scored
        return Need(START + seconds, self._of_tuning())

    def _round(self, tokens: float) -> float:
        """Seconds to round every weight of the child, once."""
        weights = self.parent.layers * self.costs.rounded_layer + self.parent.rows * self.costs.rounded_row
        return ROUNDING_PASSES * self._layers(tokens) + self.work.kept * weights

    def _export(self) -> Need:
        work = self.work
        return Need(START + self._round(work.export) + self._steps(work.scales, work.kept), self._weights(WEIGHT_BYTES))

    def _damage(self) -> Need:
        work = self.work
        cuts = CUTS * (self._refit(0.75 * work.damage).seconds - START + self._forward(work.damage))
        scores = 5 * work.formats * self._forward(work.damage / 4)  # a group of matrices at a time
        return Need(START + cuts + scores + work.formats * self._round(work.damage), self._weights(8))

    def _plan(self) -> Need:
        work = self.work
        rounds = self._round(work.damage) if work.formats else 0.0
        once = self._refit(work.damage).seconds - START + self._steps(work.trial, work.kept) + rounds
        return Need(START + PLANS * once, max(self._of_tuning(), self._weights(8)))

    def _write(self) -> Need:
        tokens = WRITTEN * self.work.written
        return Need(START + tokens / CPU_ROWS * self.costs.decode(self.parent.layers), self._weights())


def text(needs: dict[str, Need]) -> str:
    """The needs as a table for a terminal, with their sum and the highest peak at its end."""
    everything = Need(sum(need.seconds for need in needs.values()), max(need.memory for need in needs.values()))
    rows = [(name, duration(need.seconds), gigabytes(need.memory)) for name, need in (*needs.items(), ("all", everything))]
    return "\n".join(f"{name:<22}{time:>10}{memory:>14}" for name, time, memory in (("stage", "time", "peak memory"), *rows))


def duration(seconds: float) -> str:
    """In the largest unit that shows two digits, or in seconds."""
    for size, unit in ((86400, "days"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.{0 if seconds >= 10 * size else 1}f} {unit}"
    return f"{seconds:.0f} s"


def gigabytes(size: float) -> str:
    """10^9 bytes."""
    return f"{size / 1e9:.1f} GB"
