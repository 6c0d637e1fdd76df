#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Runs a program of MPI with each process in a network namespace of its own, over a network with a delay.

    delayed_network.py -n P --delay MS [--rate MBIT] COMMAND...      as root, with Open MPI and iproute2

For what a cluster's latency does on a machine whose kernel has no netem. The namespaces hang on TUN devices, and this program
carries each packet to its destination once the delay is over, and no faster than the rate where there is one. It takes some tens
of microseconds itself for each packet, so that delays from a millisecond on mean something.
"""

from __future__ import annotations

import argparse
import fcntl
import heapq
import os
import select
import stat
import struct
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

TUNSETIFF, IFF_TUN, IFF_NO_PI = 0x400454CA, 0x0001, 0x1000


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)


class Network:
    def __init__(self, count: int, delay: float, rate: float) -> None:
        self.names = [f"brenier-{os.getpid()}-{k}" for k in range(count)]
        self.delay, self.rate, self.packets = delay, rate, 0
        self.ends: list[int] = []
        self.done = threading.Event()

    def __enter__(self) -> "Network":
        for k, name in enumerate(self.names):
            end = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
            device = f"brn{os.getpid() % 100000}-{k}"
            fcntl.ioctl(end, TUNSETIFF, struct.pack("16sH22x", device.encode(), IFF_TUN | IFF_NO_PI))
            self.ends.append(end)
            ip("netns", "add", name)
            ip("link", "set", device, "netns", name)
            ip("-n", name, "link", "set", "lo", "up")
            ip("-n", name, "addr", "add", f"10.77.0.{k + 1}/24", "dev", device)
            ip("-n", name, "link", "set", device, "mtu", "9000", "txqueuelen", "10000", "up")
        self.carrier = threading.Thread(target=self.carry)
        self.carrier.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.done.set()
        self.carrier.join()
        for end in self.ends:
            os.close(end)
        for name in self.names:
            subprocess.run(["ip", "netns", "del", name], check=False)

    def carry(self) -> None:
        """Packets wait in the order of the times they are due."""
        waiting: list[tuple[float, int, int, bytes]] = []
        free = [0.0] * len(self.ends)  # when each end may be given the next packet
        number = 0
        while not self.done.is_set():
            now = time.monotonic()
            while waiting and waiting[0][0] <= now:
                _, _, to, packet = heapq.heappop(waiting)
                try:
                    os.write(self.ends[to], packet)
                except OSError:
                    pass  # a packet that is lost; TCP sends it again
            wait = 0.1 if not waiting else max(0.0, waiting[0][0] - time.monotonic())
            for end in select.select(self.ends, [], [], wait)[0]:
                for _ in range(64):
                    try:
                        packet = os.read(end, 65536)
                    except BlockingIOError:
                        break
                    to = packet[19] - 1 if len(packet) >= 20 and packet[0] >> 4 == 4 else -1
                    if 0 <= to < len(self.ends):
                        now = time.monotonic()
                        if self.rate > 0:
                            free[to] = max(free[to], now) + len(packet) / self.rate
                            now = free[to]
                        number += 1
                        heapq.heappush(waiting, (now + self.delay, number, to, packet))
        self.packets = number


def run(count: int, delay: float, rate: float, command: list[str]) -> int:
    with tempfile.TemporaryDirectory() as folder, Network(count, delay, rate) as network:
        # Another host is another namespace, and has another name: processes of one name would share memory.
        agent = Path(folder) / "agent"
        agent.write_text("#!/bin/sh\nhost=${1##*.}; shift\n"
                         f'exec ip netns exec brenier-{os.getpid()}-$((host - 1)) unshare --uts sh -c '
                         '"hostname brenier-$host && $*"\n')
        agent.chmod(agent.stat().st_mode | stat.S_IXUSR)
        hosts = ",".join(f"10.77.0.{k + 1}:1" for k in range(count))
        environment = {**os.environ, "OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
                       "OMPI_MCA_mpi_yield_when_idle": "1", "OMPI_MCA_hwloc_base_binding_policy": "none"}
        only = ["--mca", "btl", "tcp,self", "--mca", "btl_tcp_if_include", "10.77.0.0/24", "--mca", "oob_tcp_if_include",
                "10.77.0.0/24", "--mca", "plm_rsh_agent", str(agent), "--mca", "pml", "ob1"]
        code = subprocess.run(["ip", "netns", "exec", network.names[0], "mpirun", "-n", str(count), "--host", hosts, *only,
                               *command], env=environment, check=False).returncode
    print(f"{network.packets} packets", file=sys.stderr)
    return code


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-n", type=int, required=True)
    parser.add_argument("--delay", type=float, required=True, help="one way, in milliseconds")
    parser.add_argument("--rate", type=float, default=0, help="into each process, in Mbit/s; 0: as fast as it goes")
    parser.add_argument("command", nargs=argparse.REMAINDER)
    arguments = parser.parse_args()
    return run(arguments.n, 1e-3 * arguments.delay, arguments.rate * 1e6 / 8, arguments.command)


if __name__ == "__main__":
    sys.exit(main())
