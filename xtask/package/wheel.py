"""Writes a wheel that holds one program and needs torch.

Arguments: the program, the folder of README.md and the licences, the wheel to write, whose name gives version and tag.
"""

import base64
import hashlib
import os
import sys
import zipfile

program, root, wheel = sys.argv[1:]
name, version, *tag = os.path.basename(wheel).removesuffix(".whl").split("-")
info = f"{name}-{version}.dist-info"

METADATA = f"""\
Metadata-Version: 2.4
Name: {name}
Version: {version}
Summary: Fine-tunes sentence-embedding models
License-Expression: MIT OR Apache-2.0
License-File: LICENSE-MIT
License-File: LICENSE-APACHE
Requires-Python: >=3.10
Requires-Dist: torch>=2.11,<2.12
Description-Content-Type: text/markdown

"""

WHEEL = f"""\
Wheel-Version: 1.0
Generator: cargo xtask package
Root-Is-Purelib: false
Tag: {"-".join(tag)}
"""


def read(path):
    with open(path, "rb") as file:
        return file.read()


files = {
    f"{name}-{version}.data/scripts/{name}": read(program),
    f"{info}/METADATA": METADATA.encode() + read(os.path.join(root, "README.md")),
    f"{info}/WHEEL": WHEEL.encode(),
}
for licence in ["LICENSE-MIT", "LICENSE-APACHE"]:
    files[f"{info}/licenses/{licence}"] = read(os.path.join(root, licence))
record = f"{info}/RECORD"
lines = []
for path, content in files.items():
    digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
    lines.append(f"{path},sha256={digest},{len(content)}\n")
files[record] = "".join(lines + [f"{record},,\n"]).encode()

partial = wheel + ".partial"
with zipfile.ZipFile(partial, "w", zipfile.ZIP_DEFLATED) as archive:
    for path, content in files.items():
        # A fixed time, so that the same files give the same wheel.
        entry = zipfile.ZipInfo(path, (2020, 1, 1, 0, 0, 0))
        entry.compress_type = zipfile.ZIP_DEFLATED
        # pip keeps the right to execute where the entry says that it is a regular file.
        entry.external_attr = (0o100755 if "/scripts/" in path else 0o100644) << 16
        archive.writestr(entry, content)
os.replace(partial, wheel)
