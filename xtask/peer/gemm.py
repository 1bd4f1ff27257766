"""The rate of torch's matrix products on the GPU, which shares are of. One line a product.

The shapes are square ones, and those of MPNet-base's layers over the tokens of a large batch.
"""

import time

from common import arguments, tell

args = arguments(("--seconds", {"type": float, "required": True}))

import torch

if not torch.cuda.is_available():
    raise SystemExit("error: torch finds no GPU: torch.cuda.is_available() is false")
properties = torch.cuda.get_device_properties(0)
tell(
    "gpu",
    name=properties.name,
    memory_bytes=properties.total_memory,
    capability=f"{properties.major}.{properties.minor}",
    cuda=torch.version.cuda,
    torch=torch.__version__,
)
SHAPES = [
    (4096, 4096, 4096),
    (8192, 8192, 8192),
    (16384, 768, 2304),
    (32768, 768, 3072),
    (32768, 3072, 768),
]
PRECISIONS = ["fp32", "tf32", "bf16"]


def rate(m, k, n, precision, seconds):
    """GFLOP/s of [m, k] times [k, n], the best of several runs of a few products."""
    torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    a = torch.randn(m, k, device="cuda", dtype=dtype)
    b = torch.randn(k, n, device="cuda", dtype=dtype)
    out = torch.empty(m, n, device="cuda", dtype=dtype)
    best = float("inf")
    n_products = 1
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        torch.cuda.synchronize()
        begin = time.perf_counter()
        for _ in range(n_products):
            torch.mm(a, b, out=out)
        torch.cuda.synchronize()
        took = time.perf_counter() - begin
        best = min(best, took / n_products)
        # Runs of a few milliseconds, so that launching them does not count.
        if took < 5e-3:
            n_products *= 2
    return 2 * m * k * n / best / 1e9


each = args.seconds / len(SHAPES) / len(PRECISIONS)
for precision in PRECISIONS:
    # Chips before Ampere have neither; torch would compute as if they had.
    if precision != "fp32" and properties.major < 8:
        continue
    for m, k, n in SHAPES:
        gflops = rate(m, k, n, precision, each)
        tell("product", precision=precision, shape=[m, k, n], gflops=gflops)
