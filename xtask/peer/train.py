"""Steps of sentence-transformers' own trainer, with its defaults: dropout on, AdamW, clipping at 1."""

import tempfile

from common import arguments, load, tell

args = arguments(
    ("--batch-size", {"type": int, "required": True}),
    ("--max-steps", {"type": int, "required": True}),
    ("--precision", {"choices": ["fp32", "bf16"], "default": "fp32"}),
)

from sentence_transformers import (
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
    losses,
)
from transformers import TrainerCallback


class Steps(TrainerCallback):
    """Tells when the first step begins and when each one ends."""

    def __init__(self, tokens):
        self.tokens = tokens

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == 0:
            tell("begin")

    def on_step_end(self, args, state, control, **kwargs):
        tell(
            "step",
            step=state.global_step,
            n_rows=args.per_device_train_batch_size,
            n_tokens=self.tokens[state.global_step - 1],
        )


model = SentenceTransformer(args.model, device="cpu")
with tempfile.TemporaryDirectory() as folder:
    training = SentenceTransformerTrainingArguments(
        output_dir=folder,
        per_device_train_batch_size=args.batch_size,
        max_steps=args.max_steps,
        bf16=args.precision == "bf16",
        use_cpu=True,
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
    trainer.add_callback(Steps(tokens))
    trainer.train()
