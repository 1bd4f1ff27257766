"""Unpacks what building and running against libtorch needs out of the wheels: headers and libraries.

Arguments: `cpu` or `cu130`, the folder to make, the wheels.
"""

import os
import shutil
import sys
import zipfile

CPU = {"libtorch_cpu.so", "libc10.so", "libgomp.so.1", "libcudart.so.13", "libcupti.so.13"}
CUDA = {
    "libtorch.so",
    "libtorch_cuda.so",
    "libtorch_cuda_linalg.so",
    "libtorch_nvshmem.so",
    "libc10_cuda.so",
    "libcaffe2_nvrtc.so",
}


def destination(member, cuda):
    """Where a wheel's file goes in the folder, or None where it is not needed."""
    parts = member.split("/")
    name = parts[-1]
    if not name:
        return None
    if member.startswith("torch/include/"):
        return os.path.join(*parts[1:])
    if parts[:2] == ["torch", "lib"] and len(parts) == 3:
        return os.path.join("lib", name) if name in CPU or cuda and name in CUDA else None
    if parts[0] == "nvidia" and len(parts) > 3:
        # One flat folder: the libraries find each other beside themselves ($ORIGIN).
        if parts[2] == "lib" and len(parts) == 4 and (name in CPU or cuda and ".so" in name):
            return os.path.join("lib", name)
        if parts[2] == "include" and cuda:
            return os.path.join("cuda", *parts[2:])
    return None


def main(tag, folder, *wheels):
    """Unpacks the wheels; zipfile checks every file's CRC."""
    unpacked = set()
    for wheel in wheels:
        with zipfile.ZipFile(wheel) as archive:
            for member in archive.namelist():
                target = destination(member, tag != "cpu")
                if target is None or ".." in member.split("/"):
                    continue
                path = os.path.join(folder, target)
                os.makedirs(os.path.dirname(path), exist_ok=True)
                with archive.open(member) as source, open(path, "wb") as sink:
                    shutil.copyfileobj(source, sink, 1 << 20)
                    if target.startswith("lib"):
                        sink.flush()
                        os.fsync(sink.fileno())
                unpacked.add(os.path.basename(path))
    missing = (CPU if tag == "cpu" else CPU | CUDA) - unpacked
    if missing:
        sys.exit("the wheels hold no " + ", ".join(sorted(missing)))


main(*sys.argv[1:])
