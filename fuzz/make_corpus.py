"""Writes files to start from into fuzz/corpus/<target>/: fixtures of the crates, and small files of other formats.

Python's own library is enough; files in zstd are left out where the package `zstandard` is missing.
"""

import gzip
import re
from pathlib import Path

HERE = Path(__file__).parent
DATA = HERE / "../crates/data/tests/fixtures"
MODEL = HERE / "../crates/model/tests"


def listed(name):
    """A list of names in the target, which chooses by their places."""
    source = (HERE / "fuzz_targets/model_folder.rs").read_text()
    return re.findall('"(.*?)"', source.split(f"const {name}:")[1].split("];")[0])


CSV = [
    "anchor,positive,negative\na b,c,d\n\"e, \"\"f\"\"\",g\nh,i,j\n",
    "a,b,label\nx,y,0\nz,w,1\n",
    "sentence1,sentence2,score\r\n\u00e9,\"line\r\nbreak\",0.5\r\n",
    "text\tlabel\none\ttopic\ntwo\tother\n",
    "id,text,list,score\nq1,a text,d1,0.5\nq2,another,d2,1\n",
]
LINES = [
    '{"anchor": "a", "positive": "b"}\n{"anchor": "c", "positive": "d"}\n',
    '{"query": "a", "pos": ["b", "c"], "neg": ["d"]}\n{"query": "e", "pos": ["f"], "neg": ["g", "h"]}\n',
    '["a", "b"]\n["c", "d"]\n',
    '{"set": ["a", "b", "c"]}\n',
    '{"a": "x", "b": "y", "label": [0.5, 1]}\n',
    '{"query": "a", "passages": {"passage_text": ["b", "c"], "is_selected": [0, 1]}}\n',
    '{"id": 1, "text": null, "list": ["d1", "d2"], "score": 1e3}\n',
]
DOCUMENTS = [
    '[{"a": "x", "b": "y"}, {"a": "z", "b": "w"}]',
    '{"version": 1, "data": [{"a": "x", "b": "y"}]}',
    '{"a": ["x", "z"], "b": ["y", "w"]}',
    '{"a": {"0": "x", "1": "z"}, "b": {"0": "y", "1": "w"}}',
    '{\n  "a": "x",\n  "b": "\\u00e9\\n"\n}\n{"a": "z", "b": "w"}\n',
]
NAMES = ["owner/name", "owner/name@main", "owner/name@refs/pr/1", "owner/name:subset", "name"]


def write(target, files):
    folder = HERE / "corpus" / target
    folder.mkdir(parents=True, exist_ok=True)
    for number, content in enumerate(files):
        (folder / f"seed-{number}").write_bytes(content)
    print(f"{target}: {len(files)} files")


def encoded(texts):
    return [text.encode() for text in texts]


def zstd():
    try:
        from zstandard import compress
    except ImportError:
        print("no package zstandard: fuzz_packed starts from gzip alone")
        return []
    return [compress(text) for text in encoded(CSV + LINES)]


def main():
    parquet = [path.read_bytes() for path in sorted(DATA.glob("*.parquet"))]
    write("fuzz_csv", encoded(CSV))
    write("fuzz_json_lines", encoded(LINES))
    write("fuzz_json", encoded(DOCUMENTS + LINES))
    write("fuzz_parquet", parquet)
    write("fuzz_arrow", [path.read_bytes() for path in sorted(DATA.rglob("*.arrow"))])
    write("fuzz_packed", [gzip.compress(text, mtime=0) for text in encoded(CSV + LINES)] + zstd())
    formats = [encoded(CSV), encoded(LINES), encoded(DOCUMENTS), parquet]
    write("fuzz_tables", [bytes([byte]) + file for byte, files in enumerate(formats) for file in files])
    models = []
    files = listed("FILES")
    for i, model in enumerate(listed("MODELS")):
        for j, name in enumerate(files):
            path = MODEL / model / name
            if path.is_file():
                models.append(bytes([i * len(files) + j]) + path.read_bytes())
    write("fuzz_model_folder", models)
    write("fuzz_hub_names", encoded(NAMES))


if __name__ == "__main__":
    main()
