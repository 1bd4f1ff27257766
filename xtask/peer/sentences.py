"""Writes the first N different sentences of the data, one a line."""

import itertools

from common import arguments, load

args = arguments(("--count", {"type": int, "required": True}), ("--output", {"required": True}))
texts = itertools.chain.from_iterable(row.values() for row in load(args.data))
different = dict.fromkeys(" ".join(text.split()) for text in texts)
with open(args.output, "w", encoding="utf-8") as lines:
    lines.writelines(f"{text}\n" for text in itertools.islice(different, args.count))
