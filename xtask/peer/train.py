"""Steps of sentence-transformers' own trainer, with its defaults: dropout on, AdamW, clipping at 1.

It tells when the first step begins, and of the steps in a window of time after the warm-up, then ends. The window
begins and ends where the device has done its work.
"""

import tempfile
import time

from common import arguments, device_peak, load, synchronize, tell

args = arguments(
    ("--batch-size", {"type": int, "required": True}),
    ("--precision", {"choices": ["fp32", "tf32", "bf16"], "default": "fp32"}),
    ("--warmup-seconds", {"type": float, "default": 0.0}),
    ("--seconds", {"type": float, "required": True}),
)

from sentence_transformers import (
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
    losses,
)
from transformers import TrainerCallback


class Window(TrainerCallback):
    """Tells of the steps in a window of time, and ends the training after it."""

    # Setting up takes the first steps longer than the time of warm-up.
    LEAST_WARMUP = 2

    def __init__(self, tokens):
        self.tokens = tokens
        self.first = None
        self.begin = None
        self.last_warmup = 0

    def on_step_begin(self, training, state, control, **kwargs):
        if state.global_step == 0:
            tell("begin")

    def on_step_end(self, training, state, control, **kwargs):
        step, now = state.global_step, time.perf_counter()
        if self.first is None:
            self.first = now
        if self.begin is None:
            if step >= self.LEAST_WARMUP and now - self.first >= args.warmup_seconds:
                synchronize(args.device)
                self.begin, self.last_warmup = time.perf_counter(), step
            return
        if now - self.begin < args.seconds:
            return
        synchronize(args.device)
        n_steps = step - self.last_warmup
        tell(
            "window",
            seconds=time.perf_counter() - self.begin,
            n_rows=n_steps * training.per_device_train_batch_size,
            n_tokens=sum(self.tokens[self.last_warmup : step]),
            device_peak_bytes=device_peak(args.device),
        )
        control.should_training_stop = True


model = SentenceTransformer(args.model, device=args.device)
on_gpu = args.device == "cuda"
with tempfile.TemporaryDirectory() as folder:
    training = SentenceTransformerTrainingArguments(
        output_dir=folder,
        per_device_train_batch_size=args.batch_size,
        max_steps=1_000_000,
        bf16=args.precision == "bf16",
        # Set either way on a GPU, since torch's own default has changed before.
        tf32=(args.precision == "tf32") if on_gpu else None,
        use_cpu=not on_gpu,
        # A last batch of another size would say little about this one.
        dataloader_drop_last=True,
        save_strategy="no",
        logging_strategy="no",
        report_to=[],
        disable_tqdm=True,
    )
    trainer = SentenceTransformerTrainer(
        model=model,
        args=training,
        train_dataset=load(args.data),
        loss=losses.MultipleNegativesRankingLoss(model),
    )
    # The batches come in the order of the steps, some before they are needed.
    tokens = []
    collator = trainer.data_collator

    class Counting(type(collator)):
        def __call__(self, features):
            batch = super().__call__(features)
            masks = [value for key, value in batch.items() if key.endswith("attention_mask")]
            tokens.append(sum(int(mask.sum()) for mask in masks))
            return batch

    collator.__class__ = Counting
    trainer.add_callback(Window(tokens))
    trainer.train()
