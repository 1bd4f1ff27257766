"""Arguments, data and events of the peer's programs.

Every event is a JSON object on a line of its own on stdout, flushed; `cargo xtask bench` takes the time when
the line arrives, as it does with sentune's lines.
"""

import argparse
import json
import os
import sys

os.environ["HF_HUB_OFFLINE"] = "1"


def arguments(*more):
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--num-threads", type=int, required=True)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    for name, options in more:
        parser.add_argument(name, **options)
    parsed = parser.parse_args()
    if parsed.device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    import torch

    torch.set_num_threads(parsed.num_threads)
    return parsed


def synchronize(device):
    """Waits until the device has done all that it was asked for."""
    import torch

    if device == "cuda":
        torch.cuda.synchronize()


def device_peak(device):
    """The most that torch has handed out of the device's memory, in bytes."""
    import torch

    return torch.cuda.max_memory_allocated() if device == "cuda" else None


def tell(kind, **what):
    print(json.dumps({"type": kind, **what}), flush=True)


def load(path):
    """Triplets as a data set; reading is quiet, and the copy that `datasets` keeps is shared between runs."""
    from datasets import Dataset, disable_progress_bars

    disable_progress_bars()
    if path.endswith(".parquet"):
        return Dataset.from_parquet(path)
    if path.endswith(".csv"):
        return Dataset.from_csv(path)
    sys.exit(f"{path}: neither .parquet nor .csv")
