#!/usr/bin/env python3
"""Three nodes on real kernels' networks, each with an application, under a schedule of faults made from a seed;
or under those of a story (stories.py); then the histories of the applications are checked (check.py). See README.md."""

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import namedtuple
from pathlib import Path

import check
import stories
from stories import Fault

HERE = Path(__file__).resolve().parent
NAMES = ["a", "b", "c"]
HTTP_PORT, MESH_PORT = 8385, 8386
READY_S = 20
HEAL_S = 40
AFTER_S = 5
QUIET_S = 60
# The network behind a router that hides what is in it.
INSIDE, INSIDE_ROUTER = "192.168.77.2", "192.168.77.1"
FAKETIME = next(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"), None)
SLOW = "tbf rate 1mbit burst 8kb latency 200ms"
FORGET_MAPPINGS = """
import socket, struct
netfilter = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 12)
# IPCTNL_MSG_CT_DELETE without a tuple, with an acknowledgement.
netfilter.send(struct.pack("=IHHIIBBH", 20, 1 << 8 | 2, 5, 1, 0, 2, 0, 0))
error = struct.unpack_from("=i", netfilter.recv(4096), 16)[0]
raise SystemExit(error and f"the mappings stay: error {-error}")
"""

Weather = namedtuple("Weather", "start delay_ms loss_percent")


def plan(seed, seconds):
    """Returns the faults and the weather of a run. Each fault ends before the run does.

    Cuts, stops and new addresses may overlap. A node is not killed within 4 s of another fault: one that comes
    back while it is cut off from all others lets its application create anew what it does not find, and that
    stands. Nothing else happens while a machine sleeps.
    """
    dice = random.Random(seed)
    menu = ["one-way", "one-way", "cut", "cut", "isolate", "kill", "kill", "stop", "stop", "address", "address", "sleep"]
    faults, now, calm = [], 3.0, 0.0
    while now < seconds:
        kind = dice.choice(menu)
        nodes = dice.sample(NAMES, 2 if kind in ("one-way", "cut") else 1)
        lengths = {"kill": dice.uniform(0.2, 4), "stop": 3.0, "address": dice.uniform(0.1, 2), "sleep": dice.uniform(5, 10)}
        length = lengths.get(kind, dice.uniform(1, 8))
        pause = dice.uniform(1, 5)
        together = kind != "sleep" and dice.random() < 0.3
        if kind == "sleep":
            now = max(now, calm + 1)
        if kind == "kill":
            now = max(now, calm + 4)
        fault = Fault(round(now, 2), round(now + length, 2), kind, nodes)
        if fault.end > seconds:
            break
        faults.append(fault)
        calm = max(calm, fault.end)
        if kind == "kill":
            now = fault.end + 4
        else:
            now += dice.uniform(0.2, length) if together else length + pause
    weather, now = [], 0.0
    while now < seconds:
        weather.append(Weather(round(now, 2), *dice.choice([(0, 0), (40, 0), (0, 2), (40, 2)])))
        now += dice.uniform(5, 15)
    return faults, weather


def run(*words, **options):
    return subprocess.run(words, check=True, capture_output=True, text=True, **options).stdout


class Talk:
    """A program that answers lines with lines."""

    def __init__(self, command, errors):
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True)

    def say(self, line):
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def hear(self):
        return self.process.stdout.readline().strip()

    def ask(self, line):
        self.say(line)
        return self.hear()

    def end(self):
        with contextlib.suppress(OSError):
            self.process.stdin.close()
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


class Machine:
    """A namespace, its node and its application, perhaps behind a router that hides it."""

    def __init__(self, name, home, deskmesh, hidden=False, number=None):
        self.name, self.home, self.deskmesh, self.hidden = name, home / name, deskmesh, hidden
        self.home.mkdir()
        self.namespace = f"dm-{os.getpid()}-{name}"
        # Where the others see it: the namespace that has the device of the network between them.
        self.edge = f"{self.namespace}-router" if hidden else self.namespace
        number = number or NAMES.index(name) + 1
        # It has one at a time. The last is of another network.
        self.addresses = [f"10.91.0.{number}", f"10.91.0.{number + 10}", f"10.92.0.{number}"]
        self.address = self.addresses[0]
        self.data = self.home / "data"
        self.log = open(self.home / "log", "ab")
        self.node = self.client = None
        self.join = self.config = self.clock = None
        self.table = []
        self.ports = 40_000

    def inside(self, *words):
        return ["ip", "netns", "exec", self.namespace, *map(str, words)]

    def at_edge(self, *words):
        return run("ip", "netns", "exec", self.edge, *map(str, words))

    def make(self):
        for namespace in {self.namespace, self.edge}:
            run("ip", "netns", "add", namespace)
            run("ip", "-n", namespace, "link", "set", "lo", "up")
        self.at_edge("nft", "add table ip cut; add chain ip cut input { type filter hook prerouting priority -300; }")
        if self.hidden:
            run("ip", "-n", self.edge, "link", "add", "inner", "type", "veth", "peer", "outer", "netns", self.namespace)
            for namespace, device, address in ((self.edge, "inner", INSIDE_ROUTER), (self.namespace, "outer", INSIDE)):
                run("ip", "-n", namespace, "address", "add", f"{address}/24", "dev", device)
                run("ip", "-n", namespace, "link", "set", device, "up")
            run("ip", "-n", self.namespace, "route", "add", "default", "via", INSIDE_ROUTER)
            self.at_edge("sysctl", "-q", "-w", "net.ipv4.ip_forward=1")
            self.at_edge("nft", "add table ip nat; add chain ip nat out { type nat hook postrouting priority 100; }")
            self.map_ports()

    def map_ports(self):
        """Has the router use other ports from now on, for what is under way too."""
        self.ports += 1_000
        rule = f"oifname mesh0 meta l4proto udp counter masquerade to :{self.ports}-{self.ports + 999}"
        self.at_edge("nft", f"flush chain ip nat out; add rule ip nat out {rule}")
        self.at_edge(sys.executable, "-c", FORGET_MAPPINGS)

    def mappings(self):
        """How many there have been since the ports are the present ones."""
        return int(self.at_edge("nft", "list chain ip nat out").split("packets")[1].split()[0])

    def lose_address(self):
        run("ip", "-n", self.edge, "address", "flush", "dev", "mesh0")

    def take_address(self):
        self.address = self.addresses[(self.addresses.index(self.address) + 1) % len(self.addresses)]
        run("ip", "-n", self.edge, "address", "add", f"{self.address}/24", "dev", "mesh0")
        run("ip", "-n", self.edge, "route", "replace", "default", "dev", "mesh0")

    def sleep(self):
        for process in (self.client.process, self.node):
            process.send_signal(signal.SIGSTOP)
        run("ip", "-n", self.edge, "link", "set", "mesh0", "down")

    def wake(self):
        run("ip", "-n", self.edge, "link", "set", "mesh0", "up")
        run("ip", "-n", self.edge, "route", "replace", "default", "dev", "mesh0")
        for process in (self.client.process, self.node):
            process.send_signal(signal.SIGCONT)

    def set_clock(self, ahead_s):
        self.clock = self.home / "clock"
        self.clock.write_text(f"{ahead_s:+d}\n")

    def limit_rate(self, on):
        self.at_edge("tc", "qdisc", *(f"replace dev mesh0 root {SLOW}" if on else "del dev mesh0 root").split())

    def resident_kib(self):
        if self.node.poll() is not None:
            return 0
        fields = Path(f"/proc/{self.node.pid}/status").read_text().splitlines()
        return next(int(field.split()[1]) for field in fields if field.startswith("VmRSS:"))

    def cpu_s(self):
        """The processor time of the node so far."""
        fields = Path(f"/proc/{self.node.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def start(self):
        command = [self.deskmesh, "up", "--data-dir", self.data, "--listen", f"127.0.0.1:{HTTP_PORT}"]
        command += ["--mesh-listen", f"0.0.0.0:{MESH_PORT}", "--name", self.name, "--user", "ann"]
        if self.config:
            command += ["--config", self.config]
        if self.join and not self.data.exists():
            command += ["--join", self.join]
        environment = {**os.environ, "HOME": str(self.home)}
        if self.clock:
            # What it says is read again once a second. Only the wall clock is set.
            environment |= {"LD_PRELOAD": str(FAKETIME), "FAKETIME_TIMESTAMP_FILE": str(self.clock), "FAKETIME_CACHE_DURATION": "1"}
            environment |= {"FAKETIME_DONT_FAKE_MONOTONIC": "1", "NO_FAKE_STAT": "1"}
        self.node = subprocess.Popen(self.inside(*command), env=environment, stdout=self.log, stderr=self.log)

    def ask(self, *words):
        return run(*self.inside(self.deskmesh, *words, "--data-dir", self.data))

    def peers_up(self):
        try:
            return sum(peer["state"] == "up" for peer in json.loads(self.ask("peers", "--json")))
        except subprocess.CalledProcessError:
            return -1

    def kill(self):
        if self.node:
            self.node.kill()
            self.node.wait()

    def leave(self):
        """Has the node end in good order, as for an update."""
        self.node.terminate()
        self.node.wait(10)

    def stop(self):
        self.node.send_signal(signal.SIGSTOP)

    def thaw(self):
        self.node.send_signal(signal.SIGCONT)

    def hear_from(self, other, hears):
        """Whether packets of that machine arrive here."""
        # Cuts may overlap: each has an entry of its own.
        (self.table.remove if hears else self.table.append)(other)
        addresses = [address for other in self.table for address in other.addresses]
        rules = "".join(f"add rule ip cut input ip saddr {address} drop; " for address in addresses)
        self.at_edge("nft", f"flush chain ip cut input; {rules}")

    def launch_client(self, seed, away):
        others = ",".join(name for name in NAMES if name != self.name)
        self.launch("client.mjs", "--others", others, "--seed", seed, "--url", f"ws://127.0.0.1:{HTTP_PORT}",
                    "--history", self.home / "history.jsonl", *(["--away"] if away else []))

    def launch(self, program, *words):
        self.client = Talk(self.inside("node", HERE / program, "--name", self.name, *words), self.log)

    def remove(self):
        if self.client:
            self.client.end()
        self.kill()
        for namespace in {self.namespace, self.edge}:
            subprocess.run(["ip", "netns", "delete", namespace], check=False, capture_output=True)
        self.log.close()


class Mesh:
    """All of it."""

    def __init__(self, home, deskmesh, seed, away, hidden=()):
        self.seed, self.away = seed, away
        self.home = home
        self.machines = {name: Machine(name, home, deskmesh, name in hidden) for name in NAMES}
        # Machines that start later, if at all.
        self.spare = []
        self.box = None

    def configure(self, text):
        """Gives all nodes a configuration."""
        (self.home / "config.toml").write_text(text)
        for machine in self.machines.values():
            machine.config = self.home / "config.toml"

    def up(self):
        self.nodes_up(list(self.machines.values()))
        for machine in self.machines.values():
            machine.launch_client(self.seed, self.away)
        self.clients_answer("ready")

    def nodes_up(self, machines):
        """Makes the network, and starts the nodes that have a place in the mesh from the beginning."""
        for machine in machines:
            machine.make()
        for machine in self.spare:
            machine.make()
        pairs = [f"{machine.edge}={machine.address}" for machine in [*machines, *self.spare]]
        self.box = Talk([sys.executable, str(HERE / "box.py"), str(self.seed), *pairs], None)
        if self.box.hear() != "ready":
            raise SystemExit("The TUN devices cannot be made. Is this root, and is there /dev/net/tun?")
        first = machines[0]
        for machine in machines:
            if machine is not first:
                machine.join = first.ask("token", "create").strip()
            machine.start()
            until(lambda machine=machine: machine.peers_up() >= 0, READY_S, f"node {machine.name} to start")
        self.whole(READY_S)

    def whole(self, seconds):
        everybody = self.machines.values()
        until(lambda: all(machine.peers_up() == len(NAMES) - 1 for machine in everybody), seconds, "all nodes to be linked")

    def clients_answer(self, expected="done"):
        """Returns whether all clients did as they were told."""
        answers = {name: machine.client.hear() for name, machine in self.machines.items()}
        for name, answer in answers.items():
            if answer != expected:
                print(f"application {name}: {answer or 'has ended'}")
        return set(answers.values()) == {expected}

    def tell(self, word):
        for machine in self.machines.values():
            machine.client.say(word)
        return self.clients_answer()

    def begin(self, fault):
        self.apply(fault, True)

    def end(self, fault):
        self.apply(fault, False)

    def apply(self, fault, on):
        if fault.kind in stories.KINDS:
            return stories.apply(self, fault, on)
        here = self.machines[fault.nodes[0]]
        simple = {
            "kill": (here.kill, here.start),
            "leave": (here.leave, here.start),
            "stop": (here.stop, here.thaw),
            "address": (here.lose_address, here.take_address),
            "sleep": (here.sleep, here.wake),
        }
        if fault.kind in simple:
            simple[fault.kind][0 if on else 1]()
        elif fault.kind == "isolate":
            for other in self.machines.values():
                if other is not here:
                    here.hear_from(other, not on)
                    other.hear_from(here, not on)
        else:
            there = self.machines[fault.nodes[1]]
            there.hear_from(here, not on)
            if fault.kind == "cut":
                here.hear_from(there, not on)

    def down(self):
        for machine in [*self.machines.values(), *self.spare]:
            machine.remove()
        if self.box:
            self.box.end()


def until(predicate, seconds, what):
    deadline = time.monotonic() + seconds
    while not predicate():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {seconds} s: {what}")
        time.sleep(0.05)


def play(mesh, faults, weather, note):
    """Does all that is planned, when it is."""
    steps = [(fault.start, "begin", fault) for fault in faults] + [(fault.end, "end", fault) for fault in faults]
    steps += [(change.start, "weather", change) for change in weather]
    started = time.monotonic()
    for at, verb, subject in sorted(steps, key=lambda step: step[0]):
        time.sleep(max(0.0, started + at - time.monotonic()))
        if verb == "weather":
            mesh.box.say(f"{subject.delay_ms} {subject.loss_percent}")
        else:
            before, memory = time.time(), {name: machine.resident_kib() for name, machine in mesh.machines.items()}
            getattr(mesh, verb)(subject)
            note(verb, subject, before if verb == "begin" else time.time(), memory)


def main():
    words = argparse.ArgumentParser(description=__doc__)
    words.add_argument("--seed", type=int, default=1)
    words.add_argument("--story", choices=sorted([*stories.STORIES, *stories.PLAYS]), help="play this instead")
    words.add_argument("--seconds", type=float, default=60, help="how long there are faults")
    words.add_argument("--deskmesh", default="target/release/deskmesh", help="the program to test")
    words.add_argument("--away", action="store_true", help="also update contexts while there is no node")
    words.add_argument("--keep", help="a directory for logs and histories, which then stay")
    words = words.parse_args()
    if os.geteuid() != 0:
        raise SystemExit("This makes network namespaces, and needs root.")
    missing = [tool for tool in ("ip", "nft", "node", words.deskmesh) if not shutil.which(tool)]
    if missing:
        raise SystemExit(f"Not found: {', '.join(missing)}. Install it, or name the program with --deskmesh.")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))

    faults, weather = [], []
    if words.story:
        print(f"story {words.story}")
    if words.story in stories.STORIES:
        faults, weather = [Fault(*fault) for fault in stories.STORIES[words.story]], []
    elif not words.story:
        faults, weather = plan(words.seed, words.seconds)
        print(f"seed {words.seed}, {words.seconds:g} s of faults")
    for change in weather:
        print(f"  {change.start:6.2f}          round trip +{2 * change.delay_ms} ms, loss {change.loss_percent} %")
    for fault in faults:
        print(f"  {fault.start:6.2f} – {fault.end:6.2f} {fault.kind} {' '.join(fault.nodes)}")

    home = Path(words.keep or tempfile.mkdtemp(prefix="deskmesh-netns-"))
    if words.keep:
        shutil.rmtree(home, ignore_errors=True)
        home.mkdir(parents=True)
    mesh = Mesh(home, Path(words.deskmesh).resolve(), words.seed, words.away, stories.HIDDEN.get(words.story, ()))
    if words.story in stories.CLOCKED:
        if not FAKETIME:
            raise SystemExit("Wall clocks cannot be set: install libfaketime.")
        for machine in mesh.machines.values():
            machine.set_clock(0)
    if words.story in stories.CONFIG:
        mesh.configure(stories.CONFIG[words.story])
    if words.story in stories.PLAYS:
        try:
            verdicts, figures = stories.PLAYS[words.story](mesh, Machine, until)
        finally:
            mesh.down()
        return conclude(verdicts, figures, home, words.keep)
    notes, verdicts = [], []

    def note(verb, fault, at, memory):
        about = {"kind": fault.kind, "nodes": fault.nodes, "start": fault.start}
        notes.append({"at": at * 1000, "verb": verb, **about, "memory": memory})

    try:
        mesh.up()
        mesh.tell("go")
        play(mesh, faults, weather, note)
        mesh.box.say("0 0")
        healed = time.monotonic()
        linked = True
        try:
            mesh.whole(HEAL_S)
        except TimeoutError:
            linked = False
        print(f"all nodes linked {time.monotonic() - healed:.1f} s after the last fault" if linked else "NOT LINKED")
        # Applications that were cut off have this long to subscribe again.
        time.sleep(AFTER_S)
        mesh.tell("mark")
        time.sleep(AFTER_S)
        told = mesh.tell("quiet")
        time.sleep(2)
        told = mesh.tell("final") and told
        lists = {name: replica(machine) for name, machine in mesh.machines.items()}
        verdicts.append(("all nodes are linked after healing", [] if linked else ["they are not"]))
        unmapped = [machine.name for machine in mesh.machines.values() if machine.hidden and not machine.mappings()]
        verdicts.append(("routers that took other ports have used them", unmapped))
        verdicts.append(("all applications did as they were told", [] if told else ["see above"]))
        agree = len({json.dumps(seen, sort_keys=True) for seen in lists.values()}) == 1
        verdicts.append(("all nodes list the same apps, methods and contexts", [] if agree else [json.dumps(lists)]))
        status = {name: json.loads(machine.ask("status", "--json")) for name, machine in mesh.machines.items()}
        (home / "status.json").write_text(json.dumps(status))
    finally:
        mesh.down()
    (home / "faults.json").write_text(json.dumps(notes))

    histories = {name: check.read(home / name / "history.jsonl") for name in NAMES}
    verdicts += check.verdicts(histories, notes)
    figures = [*check.figures(histories, notes), *(check.phases(histories, notes) if words.story else [])]
    conclude(verdicts, figures, home, words.keep)


def conclude(verdicts, figures, home, keep):
    """Says which promises were kept, and ends the program."""
    for promise, broken in verdicts:
        print(f"{'ok    ' if not broken else 'BROKEN'}  {promise}")
        for line in broken[:10]:
            print(f"          {line[:600]}")
        if len(broken) > 10:
            print(f"          … {len(broken)} in all")
    for line in figures:
        print(line)
    failed = any(broken for _, broken in verdicts)
    if failed:
        print(f"logs and histories: {home}")
    elif not keep:
        shutil.rmtree(home)
    sys.exit(1 if failed else 0)


def replica(machine):
    """What a node says there is, without what concerns only its own side of things."""
    def plain(entries, keys):
        return sorted(json.dumps({key: entry.get(key) for key in keys}, sort_keys=True) for entry in entries)

    answers = {question: json.loads(machine.ask(question, "--json")) for question in ("apps", "methods", "contexts")}
    return {question: plain(answers[question], KEYS[question]) for question in answers}


KEYS = {"apps": ["instance", "application", "node"], "methods": ["name", "streaming", "application", "node"], "contexts": ["name", "user", "keys"]}


if __name__ == "__main__":
    main()
