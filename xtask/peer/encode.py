"""`SentenceTransformer.encode` over the lines of a file, with its default batches of 32."""

import time

from common import arguments, tell

args = arguments(("--precision", {"choices": ["fp32", "bf16"], "default": "fp32"}))

from sentence_transformers import SentenceTransformer

dtype = {"fp32": "float32", "bf16": "bfloat16"}[args.precision]
model = SentenceTransformer(args.model, device="cpu", model_kwargs={"dtype": dtype})
with open(args.data, encoding="utf-8") as lines:
    sentences = [line.rstrip("\n") for line in lines]
model.encode(sentences[:32])
begin = time.perf_counter()
model.encode(sentences)
seconds = time.perf_counter() - begin
n_tokens = sum(
    len(ids)
    for ids in model.tokenizer(sentences, truncation=True, max_length=model.max_seq_length)["input_ids"]
)
tell("encoded", seconds=seconds, n_sentences=len(sentences), n_tokens=n_tokens)
