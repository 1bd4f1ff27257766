"""`SentenceTransformer.encode` over the lines of a file, again and again in calls of 4,096, until the time is over."""

import itertools
import time

from common import arguments, device_peak, synchronize, tell

args = arguments(
    ("--precision", {"choices": ["fp32", "tf32", "bf16"], "default": "fp32"}),
    ("--batch-size", {"type": int, "default": 32}),
    ("--seconds", {"type": float, "required": True}),
)

import torch
from sentence_transformers import SentenceTransformer

if args.precision == "tf32":
    torch.backends.cuda.matmul.allow_tf32 = True
dtype = {"fp32": "float32", "tf32": "float32", "bf16": "bfloat16"}[args.precision]
model = SentenceTransformer(args.model, device=args.device, model_kwargs={"dtype": dtype})
with open(args.data, encoding="utf-8") as lines:
    sentences = [line.rstrip("\n") for line in lines]


def encode(texts):
    model.encode(texts, batch_size=args.batch_size)


encode(sentences[: 32 if args.device == "cpu" else 4096])
synchronize(args.device)
encoded = []
starts = itertools.cycle(range(0, len(sentences), 4096))
begin = time.perf_counter()
while time.perf_counter() - begin < args.seconds:
    start = next(starts)
    encoded.append(sentences[start : start + 4096])
    encode(encoded[-1])
synchronize(args.device)
seconds = time.perf_counter() - begin
n_tokens = sum(
    len(ids)
    for part in encoded
    for ids in model.tokenizer(part, truncation=True, max_length=model.max_seq_length)["input_ids"]
)
tell(
    "encoded",
    seconds=seconds,
    n_rows=sum(len(part) for part in encoded),
    n_tokens=n_tokens,
    device_peak_bytes=device_peak(args.device),
)
