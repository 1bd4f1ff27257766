"""What a GPU is measured on: the data's triplets and its different sentences, repeated until there are enough.

A GPU goes through the few thousand triplets that a CPU is measured on many times a minute; the start of an epoch is
not what is to be measured. Repeated texts cost neither side less: both compute on every row.
"""

import csv
import itertools

from common import arguments, load

args = arguments(
    ("--n-triplets", {"type": int, "required": True}),
    ("--triplets", {"required": True}),
    ("--n-sentences", {"type": int, "required": True}),
    ("--sentences", {"required": True}),
)

data = load(args.data)
columns = data.column_names[:3]
rows = list(zip(*(data[name] for name in columns)))
with open(args.triplets, "w", encoding="utf-8", newline="") as file:
    writer = csv.writer(file)
    writer.writerow(columns)
    writer.writerows(itertools.islice(itertools.cycle(rows), args.n_triplets))
texts = dict.fromkeys(" ".join(text.split()) for row in rows for text in row)
with open(args.sentences, "w", encoding="utf-8") as file:
    lines = itertools.islice(itertools.cycle(texts), args.n_sentences)
    file.writelines(f"{text}\n" for text in lines)
