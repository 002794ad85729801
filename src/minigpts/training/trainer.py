"""Recovery: fine-tuning on the Hugging Face Trainer that a SIGKILL can't change.

The Trainer owns the loop, the optimizer, distribution and its checkpoints. Added here: bits per byte and answers on
validation text as the evaluation, the three ways to stop, the best weights kept aside, documents that share a row without
seeing one another, a loss without logits, a teacher, and a checkpoint that counts only when whole.
Checkpoints are taken at evaluations, where the Trainer's sums of the loss start anew, so that a resumed run repeats the
uninterrupted one's arithmetic exactly.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from tqdm import tqdm
from transformers import PreTrainedModel, PrinterCallback, Trainer, TrainerCallback, TrainingArguments
from transformers.utils import logging

from minigpts import ranks
from minigpts.errors import UserError
from minigpts.evaluation import language_modeling, multiple_choice
from minigpts.model.chat_template import ChatTemplate
from minigpts.model.families import spec_for
from minigpts.model.forward import document_mask
from minigpts.model.loss import fused_loss
from minigpts.model.packing import Spans
from minigpts.model.weights import read_tensors, write_tensors
from minigpts.params import Runtime
from minigpts.training import lora, resuming
from minigpts.training.data import PackedSequences, collate, one_document_a_row
from minigpts.training.distillation import Teacher
from minigpts.training.recipe import FALL, Evaluation, Parent, Recipe, best, stop_reason, worse_than_before
from minigpts.training.sharded import Plain

if TYPE_CHECKING:
    from tokenizers import Tokenizer

BETA1 = 0.5  # AdamW's: with a few hundred steps from a damaged start, 0.9 answers too late (docs/decisions.md, 2026-11-26)
LOG_STEPS = 10  # how often the loss is looked at: each look makes the host wait for the device


@dataclass(frozen=True)
class Validation:
    """What recovery is measured with."""

    tokenizer: Tokenizer
    texts: Sequence[str]
    sequence_length: int  # the window the parent was scored with
    parent: Parent
    spans: Sequence[Spans | None] | None = None  # which characters of the texts count, as in training; None: all
    questions: Sequence[Mapping[str, Any]] = ()  # multiple choice; without any, bits per byte alone are watched
    template: ChatTemplate | None = None  # what they are asked through; None: as plain text


@dataclass(frozen=True)
class Recovery:
    """A finished run."""

    curve: list[Evaluation]
    stop_reason: str  # recovered, plateau or budget
    weights: Path  # safetensors of the best evaluation, as a checkpoint stores them


def recover(
    model: PreTrainedModel,
    sequences: np.ndarray,
    validation: Validation,
    *,
    recipe: Recipe,
    runtime: Runtime,
    dtype: torch.dtype,
    state: Path,
    teacher: Teacher | None = None,
    guarded: bool = False,
) -> Recovery:
    """Tune an fp32 ``model`` in place on ``sequences`` (num_sequences, 2, sequence_length) until ``recipe`` says stop.

    A ``guarded`` run that is worse than no tuning goes back to its best weights, and on from them at a lower rate.
    ``state`` is the folder to resume from and to leave the best weights in, stored as ``dtype``; the caller removes it.
    Raises UserError when the text doesn't fill a step or the loss is no longer a number.
    """
    logging.disable_progress_bar()  # of every checkpoint's writing
    set_trainable(model, recipe)
    with deterministic():
        steps = recipe.steps(len(sequences) * recipe.sequence_length)
        arguments = training_arguments(recipe, runtime, steps, state, recurrent=is_recurrent(model))
        trainer = _RecoveryTrainer(model, arguments, sequences, validation, recipe, runtime, dtype, teacher, guarded)
        resumed = resuming.newest_checkpoint(state)
        if resumed is None:
            trainer.evaluate()
        else:
            trainer.curve = resuming.read_curve(resumed)
        if trainer.stop_reason is None:
            trainer.train(resume_from_checkpoint=None if resumed is None else str(resumed))
    assert trainer.stop_reason is not None
    weights = resuming.best_weights(state, best(trainer.curve).step)
    return Recovery(trainer.curve, trainer.stop_reason, weights)


def set_trainable(model: PreTrainedModel, recipe: Recipe) -> None:
    """Leave trainable what the recipe tunes: adapters, all but embeddings and output head, or everything."""
    if recipe.lora_rank:
        lora.attach(model, recipe.lora_rank, recipe.seed)
    elif recipe.freeze_embeddings:
        for module in (model.get_input_embeddings(), model.get_output_embeddings()):
            module.requires_grad_(False)


def training_arguments(recipe: Recipe, runtime: Runtime, steps: int, state: Path, *, recurrent: bool = False) -> TrainingArguments:
    """The recipe in the Trainer's terms, shared among the processes, in batches this machine can hold.

    ``recurrent`` models take one packed row at once: its documents pad one another little, those of several rows much.
    Raises UserError when a step's sequences can't be shared evenly.
    """
    if recipe.batch_size % ranks.count():
        raise UserError(
            f"params.yaml: finetune.batch_size {recipe.batch_size} can't be shared among the {ranks.count()} processes of"
            " runtime.launcher; set a multiple of them, or runtime.launcher: null"
        )
    sequences = recipe.batch_size // ranks.count()
    at_once = max(part for part in range(1, sequences + 1) if sequences % part == 0 and _fits(part, recipe, runtime, recurrent))
    arguments = TrainingArguments(
        output_dir=str(state),
        max_steps=steps,
        per_device_train_batch_size=at_once,
        gradient_accumulation_steps=sequences // at_once,
        learning_rate=recipe.learning_rate,
        weight_decay=recipe.weight_decay,
        adam_beta1=BETA1,
        lr_scheduler_type="cosine",
        warmup_steps=recipe.warmup_share,
        max_grad_norm=1.0,
        use_cpu=not torch.cuda.is_available(),  # as runtime.device; and without it CPU processes do not form a group
        bf16=has_bf16(),
        seed=recipe.seed,  # set as the Trainer is built
        train_sampling_strategy="sequential",  # PackedSequences is in order already
        eval_strategy="no",  # _Schedule says when to log, evaluate and save
        save_strategy="no",
        logging_strategy="no",
        logging_nan_inf_filter=False,  # it hides what `log` below reports
        remove_unused_columns=False,
        dataloader_pin_memory=torch.cuda.is_available(),
        disable_tqdm=True,
        report_to="none",
    )
    arguments._n_gpu = min(arguments.n_gpu, 1)  # one process, one device: several GPUs come through torchrun
    return arguments


def _fits(sequences: int, recipe: Recipe, runtime: Runtime, recurrent: bool) -> bool:
    return sequences == 1 or (not recurrent and sequences * recipe.sequence_length <= runtime.batch_tokens)


def is_recurrent(model: PreTrainedModel) -> bool:
    """Whether some layers carry a state from one token to the next, so that documents need rows of their own."""
    return spec_for(model.config.model_type).recurrence is not None


def has_bf16() -> bool:
    """Whether steps are computed in bf16: on a GPU that multiplies it in hardware.

    Never on a CPU, though some multiply it: there it gains little time at these sizes, and SmolLM2's attention sink, whose
    gradient bf16 rounds away, collapsed in a third of the runs (docs/decisions.md, 2026-11-27).
    """
    return torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)


@contextmanager
def deterministic() -> Iterator[None]:
    """Deterministic kernels within the block, without the debugging aid that fills every new tensor with NaN."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS refuses to be deterministic without it
    settings: Any = torch.utils.deterministic
    before = torch.are_deterministic_algorithms_enabled(), settings.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True)
    settings.fill_uninitialized_memory = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0])
        settings.fill_uninitialized_memory = before[1]


class FusedTrainer(Trainer):
    """The stock Trainer on rows of several documents, each alone, with the loss computed without holding all logits."""

    teacher: Teacher | None = None

    def compute_loss(self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        """The model's own loss, by another way."""
        batch = one_document_a_row(inputs) if is_recurrent(self.model) else inputs
        begins, general = batch["begins"], batch["general"]
        inputs = {name: batch[name] for name in ("input_ids", "labels")}
        layout, soft = document_mask(self.model, begins), None
        if self.teacher is not None:
            with self.accelerator.autocast():
                soft = self.teacher.soft_targets(inputs["input_ids"], general, layout)
        with fused_loss(self.model, soft):
            return super().compute_loss(model, {**inputs, **layout}, *args, **kwargs)


class _RecoveryTrainer(FusedTrainer):
    """Its evaluation is the validation text's bits per byte and the answers; what it finds best it keeps aside."""

    def __init__(
        self,
        model: PreTrainedModel,
        arguments: TrainingArguments,
        sequences: np.ndarray,
        validation: Validation,
        recipe: Recipe,
        runtime: Runtime,
        dtype: torch.dtype,
        teacher: Teacher | None,
        guarded: bool,
    ) -> None:
        data = PackedSequences(sequences, arguments.max_steps * recipe.batch_size, recipe.seed)
        super().__init__(model, arguments, data_collator=collate, train_dataset=data)
        self.plain = Plain(model)
        self.validation, self.recipe, self.runtime, self.dtype, self.guarded = validation, recipe, runtime, dtype, guarded
        self.teacher = None if teacher is None else teacher.to(self.args.device)
        self.curve: list[Evaluation] = []
        self.loss_sum, self.loss_steps = 0.0, 0  # of the steps since the last evaluation
        self.remove_callback(PrinterCallback)
        self.add_callback(_Schedule(self))

    @property
    def stop_reason(self) -> str | None:
        """Why tuning ends at the last evaluation, or None."""
        return stop_reason(self.curve, self.recipe, self.validation.parent.bits_per_byte, self.args.max_steps)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add up the loss of the curve's next point. Raises UserError when it is no number."""
        if "loss" in logs:
            self._check(logs["loss"], "training loss")
            steps = self.state.global_step - self.curve[-1].step - self.loss_steps
            self.loss_sum, self.loss_steps = self.loss_sum + logs["loss"] * steps, self.loss_steps + steps
        super().log(logs, start_time)

    def _check(self, value: float, name: str) -> None:
        if not math.isfinite(value):
            step, rate = self.state.global_step, self.recipe.learning_rate
            advice = f"set finetune.learning_rate below {rate:g}" if step else "the checkpoint is damaged; make it again"
            raise UserError(f"the {name} is {value} at step {step}; {advice}")

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        """Score validation text and questions, add a point to the curve, keep the weights if they are the best so far."""
        self.model.eval()
        with self.plain.whole() as model:
            scores = self._scores(model)
            self._note(scores, model)
        if self.guarded and self.stop_reason is None and worse_than_before(self.curve):
            self._fall_back()
        self.callback_handler.on_evaluate(self.args, self.state, self.control, scores)
        return scores

    def _note(self, scores: Mapping[str, float], model: PreTrainedModel) -> None:
        self._check(scores["validation_bits_per_byte"], "validation bits per byte")
        step = self.state.global_step
        loss = self.loss_sum / self.loss_steps if self.loss_steps else None
        self.curve.append(Evaluation(step=step, tokens=step * self.recipe.tokens_per_step, train_loss=loss, **scores))
        self.loss_sum, self.loss_steps = 0.0, 0
        if best(self.curve).step == step and self.is_world_process_zero():
            path = resuming.best_weights(Path(self.args.output_dir), step)
            write_tensors(path, lora.merged_weights(model, self.dtype), {"format": "pt"})

    def _fall_back(self) -> None:
        """Put the best weights back and lower the rate; the optimizer forgets, since what it remembers led astray."""
        self.accelerator.wait_for_everyone()  # the main process has written them
        with self.plain.whole(changed=True) as model:
            lora.restore(model, read_tensors(resuming.best_weights(Path(self.args.output_dir), best(self.curve).step)))
        self.optimizer.state.clear()
        self.lr_scheduler.base_lrs = [FALL * rate for rate in self.lr_scheduler.base_lrs]  # a checkpoint keeps all three
        for group in self.optimizer.param_groups:
            group["lr"] *= FALL

    def _scores(self, model: PreTrainedModel) -> dict[str, float]:
        given, batch_tokens = self.validation, self.runtime.batch_tokens
        result = language_modeling.score(
            model,
            given.tokenizer,
            given.texts,
            sequence_length=given.sequence_length,
            batch_tokens=batch_tokens,
            spans=given.spans,
        )
        answers = multiple_choice.score(model, given.tokenizer, given.questions, batch_tokens=batch_tokens, template=given.template)
        accuracies = multiple_choice.accuracy(given.questions, answers)
        watched = {f"validation_{name}": accuracies[name] for name in ("acc", "acc_norm", "acc_norm_stderr") if name in accuracies}
        return {"validation_bits_per_byte": result.span_bits_per_byte, **watched}


class _Schedule(TrainerCallback):
    """When to log, evaluate, save and stop; and the progress bar."""

    def __init__(self, trainer: _RecoveryTrainer) -> None:
        self.trainer = trainer
        self.evaluation_steps = trainer.recipe.evaluation_steps(trainer.args.max_steps)
        self.bar: tqdm | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Open the bar where the run stands."""
        self.bar = tqdm(
            total=state.max_steps,
            initial=state.global_step,
            desc="fine-tuning",
            unit="step",
            disable=not state.is_world_process_zero,
        )
        self._show()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Evaluate and save at the same steps, and log there too."""
        control.should_evaluate = control.should_save = state.global_step in self.evaluation_steps
        control.should_log = control.should_evaluate or state.global_step % LOG_STEPS == 0
        if self.bar is not None:
            self.bar.update(1)

    def on_log(self, args: Any, state: Any, control: Any, logs: Mapping[str, float] | None = None, **_: Any) -> None:
        """Show the loss."""
        if logs and "loss" in logs:
            self._show(f"{logs['loss']:.3f}")

    def on_evaluate(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Stop when the curve says so; the checkpoint of this step is still written."""
        control.should_training_stop = control.should_training_stop or self.trainer.stop_reason is not None
        self._show()

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Declare the checkpoint whole once every process has written its part."""
        self.trainer.accelerator.wait_for_everyone()
        if state.is_world_process_zero:
            resuming.complete(Path(args.output_dir) / f"checkpoint-{state.global_step}", self.trainer.curve)

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Close the bar."""
        if self.bar is not None:
            self.bar.close()

    def _show(self, loss: str = "") -> None:
        if self.bar is not None:
            point, parent = self.trainer.curve[-1], self.trainer.validation.parent.bits_per_byte
            shown = {"loss": loss} if loss else {}
            shown |= {"bits_per_byte": f"{point.validation_bits_per_byte:.4f}", "parent": f"{parent:.4f}"}
            if point.validation_acc_norm is not None:
                shown["acc_norm"] = f"{point.validation_acc_norm:.3f}"
            self.bar.set_postfix(shown)
