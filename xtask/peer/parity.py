"""Every evaluator of sentence-transformers on real embeddings, for `cargo xtask parity`.

All texts are embedded once, and all evaluators get these embeddings. Into the folder --output go the embeddings
(embeddings.safetensors), what each evaluator gave for which of them (cases.json), and the data as files that
`sentune eval` reads, with the flags for it among the cases.
"""

import json
import math
import shutil
from pathlib import Path

from common import arguments, load

args = arguments(("--output", {"required": True}))

import numpy as np
import torch
from safetensors.torch import save_file
from sentence_transformers import SentenceTransformer, util
from sentence_transformers.sentence_transformer import evaluation as st
from sentence_transformers.sentence_transformer.evaluation import nano_beir as nano

ALL = ["cosine", "dot", "euclidean", "manhattan"]
SCORES = dict(zip(ALL, [util.cos_sim, util.dot_score, util.euclidean_sim, util.manhattan_sim]))
OUTPUT = Path(args.output)
DATA = Path(args.data)

real = SentenceTransformer(args.model, device="cpu")


class Card:
    def set_evaluation_metrics(self, *_):
        pass


class Known:
    """The model, with each text embedded once."""

    similarity_fn_name = "cosine"
    similarity = staticmethod(util.cos_sim)
    model_card_data = Card()

    def __init__(self):
        self.places, self.rows = {}, None

    def learn(self, texts):
        texts = list(dict.fromkeys(texts))
        self.places = {text: place for place, text in enumerate(texts)}
        self.rows = real.encode(texts, convert_to_tensor=True).cpu()

    def at(self, texts):
        return [self.places[text] for text in texts]

    def encode(self, sentences, convert_to_numpy=True, convert_to_tensor=False, precision=None, normalize_embeddings=False, **_):
        if isinstance(sentences, str):
            return self.encode([sentences], convert_to_numpy, convert_to_tensor)[0]
        rows = self.rows[self.at(sentences)]
        if normalize_embeddings:
            rows = torch.nn.functional.normalize(rows, p=2, dim=1)
        if precision:
            return util.quantize_embeddings(rows, precision)
        return rows if convert_to_tensor else rows.numpy() if convert_to_numpy else list(rows)

    encode_query = encode_document = encode


known = Known()


def clean(value):
    if isinstance(value, dict):
        return {key: clean(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [clean(item) for item in value]
    if isinstance(value, (bool, int, str)) or value is None:
        return value
    value = float(value)
    return value if math.isfinite(value) else None


def write(name, rows):
    """JSON Lines among the outputs."""
    with open(OUTPUT / name, "w", encoding="utf-8") as lines:
        lines.writelines(json.dumps(row) + "\n" for row in rows)
    return name


def case(evaluator_name, title, evaluator, flags=None, **inputs):
    metrics = evaluator(known)
    print(f"{evaluator_name} ({title}): {len(metrics)} figures", flush=True)
    return clean({
        "evaluator": evaluator_name, "title": title, "inputs": inputs, "flags": flags,
        "metrics": metrics, "primary": evaluator.primary_metric,
    })


def triplet(anchors, positives, negatives):
    file = write("triplets.jsonl", (
        {"anchor": a, "positive": p, "negative": n} for a, p, n in zip(anchors, positives, negatives)
    ))
    columns = [known.at(column) for column in (anchors, positives, negatives)]
    for title, margin in [("no margin", None), ("margins", {"cosine": 0.05, "dot": 0.5, "euclidean": 0.1, "manhattan": 1.0})]:
        evaluator = st.TripletEvaluator(anchors, positives, negatives, name="snli", similarity_fn_names=ALL, margin=margin)
        flags = ["--data", f"snli={file}"]
        if margin:
            flags += ["--margin", ",".join(f"{name}={value}" for name, value in margin.items())]
        yield case("triplet", title, evaluator, flags, name="snli", functions=ALL, margin=margin, columns=columns)


def embedding_similarity(first, second, scores):
    file = write("scored.jsonl", ({"a": a, "b": b, "score": s} for a, b, s in zip(first, second, scores)))
    columns = [known.at(first), known.at(second)]
    for precision in [None, "int8", "uint8", "binary", "ubinary"]:
        evaluator = st.EmbeddingSimilarityEvaluator(
            first, second, scores, name="stsb", similarity_fn_names=ALL, precision=precision
        )
        flags = ["--data", f"stsb={file}"] + (["--quantize", precision] if precision else [])
        yield case(
            "embedding-similarity", precision or "full precision", evaluator, flags,
            name="stsb", functions=ALL, precision=precision, columns=columns, scores=scores,
        )


def binary_classification(title, first, second, labels):
    file = write(f"{title}-pairs.jsonl", ({"a": a, "b": b, "label": l} for a, b, l in zip(first, second, labels)))
    evaluator = st.BinaryClassificationEvaluator(first, second, labels, name=title, similarity_fn_names=ALL)
    flags = ["--evaluator", "binary-classification", "--data", f"{title}={file}"]
    columns = [known.at(first), known.at(second)]
    yield case("binary-classification", title, evaluator, flags, name=title, functions=ALL, columns=columns, labels=labels)


def retrieval_tables(anchors, positives, negatives):
    """Anchors ask, all positives and negatives answer: each row is a document, so that texts repeat."""
    relevant, queries = {}, {}
    corpus = {f"d{i}": text for i, text in enumerate(positives + negatives)}
    ids = {}
    for i, anchor in enumerate(anchors):
        id = ids.setdefault(anchor, f"q{i}")
        queries[id] = anchor
        relevant.setdefault(id, set()).add(f"d{i}")
    return queries, corpus, relevant


def retrieval_inputs(queries, corpus, relevant):
    return {
        "query_ids": list(queries), "corpus_ids": list(corpus),
        "relevant": {id: sorted(found) for id, found in relevant.items()},
        "columns": [known.at(queries.values()), known.at(corpus.values())],
    }


def information_retrieval(*columns):
    queries, corpus, relevant = retrieval_tables(*columns)
    files = [
        write("queries.jsonl", ({"_id": id, "text": text} for id, text in queries.items())),
        write("corpus.jsonl", ({"_id": id, "text": text} for id, text in corpus.items())),
        write("qrels.jsonl", (
            {"query-id": query, "corpus-id": document} for query, found in relevant.items() for document in sorted(found)
        )),
    ]
    flags = ["--queries", files[0], "--corpus", files[1], "--qrels", files[2], "--name", "snli", "--similarity", ",".join(ALL)]
    for title, chunk in [("whole", 50000), ("in chunks", 700)]:
        evaluator = st.InformationRetrievalEvaluator(
            queries, corpus, relevant, name="snli", corpus_chunk_size=chunk, score_functions=SCORES
        )
        yield case(
            "information-retrieval", title, evaluator, flags if chunk == 50000 else None,
            name="snli", functions=ALL, chunk=chunk, **retrieval_inputs(queries, corpus, relevant),
        )


def nano_beir(anchors, positives, negatives):
    half = len(anchors) // 2
    tables = {}
    inputs = []
    for dataset, part in [("msmarco", slice(0, half)), ("nq", slice(half, None))]:
        queries, corpus, relevant = retrieval_tables(anchors[part], positives[part], negatives[part])
        tables[f"Nano{nano.DATASET_NAME_TO_HUMAN_READABLE[dataset]}"] = {
            "queries": [{"_id": id, "text": text} for id, text in queries.items()],
            "corpus": [{"_id": id, "text": text} for id, text in corpus.items()],
            "qrels": [{"query-id": id, "corpus-id": sorted(found)} for id, found in relevant.items()],
        }
        inputs.append({"dataset": dataset, **retrieval_inputs(queries, corpus, relevant)})

    class Local(st.NanoBEIREvaluator):
        def _load_dataset_subset_split(self, subset, split, required_columns):
            return tables[split][subset]

    evaluator = Local(["msmarco", "nq"], score_functions=SCORES)
    yield case("nano-beir", "two tasks made of SNLI", evaluator, None, functions=ALL, datasets=inputs)


def reranking(anchors, positives, negatives):
    samples = {}
    for anchor, positive, negative in zip(anchors, positives, negatives):
        sample = samples.setdefault(anchor, {"query": anchor, "positive": [], "negative": []})
        sample["positive"].append(positive)
        sample["negative"].append(negative)
    # Negatives of others, so that there is something to rank.
    samples = list(samples.values())
    for i, sample in enumerate(samples):
        for other in samples[i + 1 : i + 12]:
            sample["negative"] += other["positive"]
    file = write("reranking.jsonl", samples)
    columns = [
        known.at(sample["query"] for sample in samples),
        known.at(text for sample in samples for text in sample["positive"] + sample["negative"]),
    ]
    sizes = [[len(sample["positive"]), len(sample["negative"])] for sample in samples]
    for function in ALL:
        evaluator = st.RerankingEvaluator(samples, name="snli", similarity_fct=SCORES[function])
        flags = ["--evaluator", "reranking", "--data", f"snli={file}", "--similarity", function]
        yield case("reranking", function, evaluator, flags, name="snli", function=function, columns=columns, sizes=sizes)


def paraphrase_mining(first, second, scores):
    sentences = dict(enumerate(dict.fromkeys(first + second)))
    ids = {text: f"s{id}" for id, text in sentences.items()}
    sentences = {f"s{id}": text for id, text in sentences.items()}
    pairs = [[ids[a], ids[b]] for a, b, score in zip(first, second, scores) if score >= 0.8 and a != b]
    files = [
        write("sentences.jsonl", ({"id": id, "sentence": text} for id, text in sentences.items())),
        write("duplicates.jsonl", ({"id1": a, "id2": b} for a, b in pairs)),
    ]
    for title, closure in [("pairs", False), ("with their closure", True)]:
        evaluator = st.ParaphraseMiningEvaluator(
            sentences, duplicates_list=pairs, add_transitive_closure=closure, name="stsb"
        )
        flags = ["--evaluator", "paraphrase-mining", "--data", f"stsb={files[0]}", "--duplicates", files[1]]
        flags += ["--add-transitive-closure"] if closure else []
        yield case(
            "paraphrase-mining", title, evaluator, flags,
            name="stsb", closure=closure, ids=list(sentences), duplicates=pairs, columns=[known.at(sentences.values())],
        )


def pairs_of_texts(kind, first, second):
    file = write(f"{kind}.jsonl", ({"source": a, "target": b} for a, b in zip(first, second)))
    columns = [known.at(first), known.at(second)]
    flags = ["--evaluator", kind, "--data", f"stsb={file}"]
    if kind == "mse":
        evaluator = st.MSEEvaluator(first, second, teacher_model=known, name="stsb")
        flags += ["--teacher", args.model]
    else:
        evaluator = st.TranslationEvaluator(first, second, name="stsb")
    yield case(kind, "pairs of STSb", evaluator, flags, name="stsb", columns=columns)


class Batches(list):
    collate_fn = None


class Evaluated(torch.nn.Module):
    device = torch.device("cpu")
    model_card_data = Card()
    smart_batching_collate = None


def label_accuracy(anchors, positives, negatives):
    first, second = anchors + anchors, positives + negatives
    labels = [0] * len(positives) + [1] * len(negatives)
    file = write("classes.jsonl", ({"a": a, "b": b, "label": l} for a, b, l in zip(first, second, labels)))
    u, v = known.rows[known.at(first)], known.rows[known.at(second)]
    features = torch.cat([u, v, (u - v).abs()], 1)
    classifier = torch.nn.Linear(features.shape[1], 2)
    torch.manual_seed(0)
    with torch.no_grad():
        # One that has learned something: away from the middle of the two classes.
        means = [features[torch.tensor(labels) == label].mean(0) for label in (0, 1)]
        classifier.weight.copy_(torch.stack(means) - sum(means) / 2)
        classifier.bias.copy_(-(classifier.weight @ (sum(means) / 2)))
        logits = classifier(features)
    folder = OUTPUT / "with-classifier"
    shutil.copytree(args.model, folder, dirs_exist_ok=True)
    save_file(
        {"classifier.weight": classifier.weight.detach().contiguous(), "classifier.bias": classifier.bias.detach()},
        folder / "loss.safetensors",
    )

    class Classifier(torch.nn.Module):
        def forward(self, features, labels):
            return None, logits[features[0]["row"]]

    rows = torch.arange(len(labels))
    batches = Batches(
        ([{"row": rows[i : i + 32]}], torch.tensor(labels[i : i + 32])) for i in range(0, len(labels), 32)
    )
    evaluator = st.LabelAccuracyEvaluator(batches, name="nli", softmax_model=Classifier())
    metrics = evaluator(Evaluated())
    flags = ["--evaluator", "label-accuracy", "--data", f"nli={file}", "--model", str(folder)]
    print(f"label-accuracy: {len(metrics)} figures", flush=True)
    TENSORS["logits"] = logits
    yield clean({
        "evaluator": "label-accuracy", "title": "a classifier of entailment", "flags": flags,
        "inputs": {"name": "nli", "labels": labels}, "metrics": metrics, "primary": "nli_accuracy",
    })


def sequential(anchors, positives, negatives, first, second, scores):
    parts = [
        st.TripletEvaluator(anchors, positives, negatives, name="snli", similarity_fn_names=ALL),
        st.EmbeddingSimilarityEvaluator(first, second, scores, name="stsb", similarity_fn_names=ALL),
    ]
    evaluator = st.SequentialEvaluator(parts)
    flags = ["--data", "snli=triplets.jsonl", "--data", "stsb=scored.jsonl"]
    # Of the cases above, those of the same evaluators on the same data.
    yield case("sequential", "triplets, then scored pairs", evaluator, flags, parts=[["triplet", "no margin"], ["embedding-similarity", "full precision"]])


TENSORS = {}


def main():
    OUTPUT.mkdir(parents=True, exist_ok=True)
    snli = load(str(DATA / "snli-triplets/dev.parquet"))
    triplets = [list(snli[name]) for name in ("anchor", "positive", "negative")]
    stsb = load(str(DATA / "stsb/dev.parquet"))
    first, second = (list(stsb[name]) for name in ("sentence1", "sentence2"))
    scores = list(stsb["score"])
    known.learn([text for column in [*triplets, first, second] for text in column])
    anchors, positives, negatives = triplets
    alike = [i for i, score in enumerate(scores) if score >= 0.8]
    cases = [
        *triplet(*triplets),
        *embedding_similarity(first, second, scores),
        *binary_classification("stsb", first, second, [int(score >= 0.6) for score in scores]),
        *binary_classification("snli", anchors + anchors, positives + negatives, [1] * len(anchors) + [0] * len(anchors)),
        *information_retrieval(*triplets),
        *nano_beir(*triplets),
        *reranking(*triplets),
        *paraphrase_mining(first, second, scores),
        *pairs_of_texts("translation", [first[i] for i in alike], [second[i] for i in alike]),
        *pairs_of_texts("mse", first, second),
        *label_accuracy(*triplets),
        *sequential(*triplets, first, second, scores),
    ]
    save_file({"embeddings": known.rows.contiguous(), **TENSORS}, OUTPUT / "embeddings.safetensors")
    (OUTPUT / "cases.json").write_text(json.dumps(cases))


main()
