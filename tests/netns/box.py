#!/usr/bin/env python3
"""A network between namespaces, in user space: packets go from TUN device to TUN device by their
destination, late, or not at all. (Kernels without `netem` can lose packets, but not delay them.)

    box.py SEED NAMESPACE=ADDRESS …

An address that a namespace takes later is learnt from the packets that come from it, as a switch does.

It prints `ready`, and then obeys lines `DELAY_MS LOSS_PERCENT` on its standard input, of each way.
At its end it prints how many packets it had and how many of them it lost.
"""

import ctypes
import fcntl
import heapq
import os
import random
import select
import socket
import struct
import subprocess
import sys
import time

CLONE_NEWNET = 0x40000000
TUNSETIFF = 0x400454CA
IFF_TUN_WITHOUT_HEADER = 0x0001 | 0x1000
PACKET_BYTES_MAX = 2048
PACKETS_PER_TURN = 64
LIBC = ctypes.CDLL(None, use_errno=True)


def enter(descriptor):
    if LIBC.setns(descriptor, CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "setns")


def open_tun(namespace, address):
    """Returns a TUN device that was made in that namespace, which stays usable from here."""
    home = os.open("/proc/self/ns/net", os.O_RDONLY)
    there = os.open(f"/run/netns/{namespace}", os.O_RDONLY)
    enter(there)
    try:
        tun = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
        fcntl.ioctl(tun, TUNSETIFF, struct.pack("16sH22s", b"mesh0", IFF_TUN_WITHOUT_HEADER, b""))
        subprocess.check_call(["ip", "addr", "add", f"{address}/24", "dev", "mesh0"])
        subprocess.check_call(["ip", "link", "set", "mesh0", "up", "mtu", "1500"])
        subprocess.check_call(["ip", "route", "add", "default", "dev", "mesh0"])
    finally:
        enter(home)
        os.close(there)
        os.close(home)
    return tun


def packets_of(tun):
    for _ in range(PACKETS_PER_TURN):
        try:
            yield os.read(tun, PACKET_BYTES_MAX)
        except BlockingIOError:
            return


def main():
    dice = random.Random(int(sys.argv[1]))
    by_address = {}
    for pair in sys.argv[2:]:
        namespace, address = pair.split("=")
        by_address[socket.inet_aton(address)] = open_tun(namespace, address)
    print("ready", flush=True)

    delay, loss = 0.0, 0.0
    waiting, had, lost = [], 0, 0
    while True:
        now = time.monotonic()
        while waiting and waiting[0][0] <= now:
            _, _, tun, packet = heapq.heappop(waiting)
            try:
                os.write(tun, packet)
            except OSError:
                lost += 1
        patience = max(0.0, waiting[0][0] - now) if waiting else None
        readable, _, _ = select.select([sys.stdin, *set(by_address.values())], [], [], patience)
        for source in readable:
            if source is sys.stdin:
                lines = os.read(source.fileno(), 4096).decode().splitlines()
                if not lines:
                    print(f"{had} packets, {lost} lost", flush=True)
                    return
                milliseconds, percent = map(float, lines[-1].split())
                delay, loss = milliseconds / 1000, percent / 100
                continue
            for packet in packets_of(source):
                if packet[0] >> 4 != 4:
                    continue
                by_address[packet[12:16]] = source
                target = by_address.get(packet[16:20])
                if target is None:
                    continue
                had += 1
                if dice.random() < loss:
                    lost += 1
                else:
                    heapq.heappush(waiting, (time.monotonic() + delay, had, target, packet))


main()
