"""The files of a measurement: triplets, and different sentences one a line, both repeated until there are enough.

A GPU goes through the few thousand triplets that a processor is measured on many times a minute, and the start of an
epoch is not to be measured. Repeated texts cost neither side less: both compute on every row.
"""

import csv
import itertools

from common import arguments, load

args = arguments(
    ("--n-triplets", {"type": int, "default": 0}),
    ("--triplets", {}),
    ("--n-sentences", {"type": int, "required": True}),
    ("--sentences", {"required": True}),
)

data = load(args.data)
columns = data.column_names[:3]
rows = list(zip(*(data[name] for name in columns)))
if args.triplets:
    with open(args.triplets, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(itertools.islice(itertools.cycle(rows), args.n_triplets))
texts = dict.fromkeys(" ".join(text.split()) for row in rows for text in row)
with open(args.sentences, "w", encoding="utf-8") as file:
    lines = itertools.islice(itertools.cycle(texts), args.n_sentences)
    file.writelines(f"{text}\n" for text in lines)
