"""A run of sentence-transformers' trainer and its triplet evaluator before and after, for docs/results.md.

    python xtask/peer/before_after.py --model MODEL --data TRAIN.parquet --test-data TEST.parquet --seed 42 \
        --output-dir FOLDER --num-threads 2

The arguments are those of `sentune train` without flags: 3 epochs of batches of 8 by the Multiple Negatives Ranking loss. It
prints one JSON line with both evaluations and the mean train loss, and leaves the model in FOLDER/final.
"""

from common import arguments, load, tell

args = arguments(
    ("--test-data", {"required": True}),
    ("--seed", {"type": int, "default": 42}),
    ("--output-dir", {"required": True}),
)

import torch
from sentence_transformers import (
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
    losses,
)
from sentence_transformers.sentence_transformer.evaluation import TripletEvaluator

model = SentenceTransformer(args.model, device=args.device, model_kwargs={"dtype": "float32"})
test = load(args.test_data)
evaluator = TripletEvaluator(
    test["anchor"],
    test["positive"],
    test["negative"],
    main_similarity_function=None,
    similarity_fn_names=["cosine", "dot", "euclidean", "manhattan"],
)
before = evaluator(model)
trainer = SentenceTransformerTrainer(
    model=model,
    args=SentenceTransformerTrainingArguments(
        output_dir=args.output_dir,
        seed=args.seed,
        use_cpu=args.device == "cpu",
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
    ),
    train_dataset=load(args.data),
    loss=losses.MultipleNegativesRankingLoss(model),
)
torch.set_num_threads(args.num_threads)
output = trainer.train()
model.save_pretrained(args.output_dir + "/final")
tell(
    "before_after",
    seed=args.seed,
    before=before,
    after=evaluator(model),
    train_loss=output.training_loss,
    seconds=output.metrics["train_runtime"],
)
