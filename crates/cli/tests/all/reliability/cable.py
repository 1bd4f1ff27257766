"""Joins two network namespaces by a cable whose packets are late and lost: netem's work where the kernel has no netem.

    python3 cable.py NAMESPACE NAMESPACE DELAY_MS JITTER_MS SHARE_LOST

Needs root and TUN devices. Each namespace gets a device `cable`. A packet is late by the delay and up to the jitter more or
less, so that packets also overtake each other. Prints `ready`, and when stdin closes the number of packets and of those
that were lost. Draws from a fixed seed.
"""

import contextlib
import ctypes
import fcntl
import heapq
import os
import random
import select
import struct
import sys
import time

TUNSETIFF, IFF_TUN, IFF_NO_PI, CLONE_NEWNET = 0x400454CA, 0x1, 0x1000, 0x40000000


def end_in(namespace):
    with open(f"/run/netns/{namespace}") as file:
        if ctypes.CDLL(None, use_errno=True).setns(file.fileno(), CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), f"the namespace {namespace} can't be entered")
    device = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(device, TUNSETIFF, struct.pack("16sH22x", b"cable", IFF_TUN | IFF_NO_PI))
    return device


ends = [end_in(namespace) for namespace in sys.argv[1:3]]
delay, jitter, share_lost = map(float, sys.argv[3:])
random.seed(1)
print("ready", flush=True)
underway = []  # (time of arrival, number, end, packet)
n_packets = n_lost = 0
while True:
    wait = max(0.0, underway[0][0] - time.monotonic()) if underway else None
    readable, _, _ = select.select([*ends, sys.stdin], [], [], wait)
    for place, end in enumerate(ends):
        if end not in readable:
            continue
        packet = os.read(end, 65536)
        n_packets += 1
        if random.random() < share_lost:
            n_lost += 1
            continue
        arrival = time.monotonic() + (delay + random.uniform(-jitter, jitter)) / 1000
        heapq.heappush(underway, (arrival, n_packets, ends[1 - place], packet))
    while underway and underway[0][0] <= time.monotonic():
        _, _, end, packet = heapq.heappop(underway)
        with contextlib.suppress(OSError):  # a device that is down takes nothing
            os.write(end, packet)
    if sys.stdin in readable:
        print(n_packets, n_lost, flush=True)
        break
