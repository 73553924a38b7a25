"""What can be played by name instead of from a seed: faults at fixed times, in fair weather; or a play of its own."""

import json
import shutil
import signal
import subprocess
import time
from collections import namedtuple
from pathlib import Path

Fault = namedtuple("Fault", "start end kind nodes")

FDC3 = Path(__file__).resolve().parent.parent / "fdc3"
CLONES = 20

# Start and end in seconds, kind, nodes. A `calm` is what the others are compared with.
STORIES = {
    # Another address of the same network, one of another network, the first again; then the node that the others joined by.
    "address-change": [
        (5, 6, "address", ["b"]), (13, 14, "address", ["b"]), (21, 22, "address", ["b"]), (29, 29.2, "address", ["a"]),
        (37, 42, "address", ["a"]),
    ],
    # Each an hour off and back again; one of them ends and starts while it is ahead, and once more when it is not.
    "clock": [
        (5, 15, "ahead", ["b"]), (18, 23, "behind", ["c"]), (25, 45, "ahead", ["a"]), (30, 30.3, "kill", ["a"]), (38, 38.2, "leave", ["a"]),
        (50, 50.3, "kill", ["a"]), (56, 58, "behind", ["a"]), (57, 57.2, "kill", ["a"]),
    ],
    "restart": [(5 + 6 * turn, 5.2 + 6 * turn, "leave", [name]) for turn, name in enumerate("abcabcab")],
    "sleep": [(5, 15, "sleep", ["b"]), (25, 55, "sleep", ["c"])],
    "nat": [(5, 5.1, "remap", ["c"]), (15, 15.1, "remap", ["c"]), (25, 25.5, "address", ["c"]), (35, 37, "address", ["c"])],
    "slow-link": [(5, 15, "calm", []), (20, 40, "slow", ["a", "b", "c"]), (45, 85, "slow", ["a", "b", "c"]), (50, 80, "large", ["a"]), (90, 100, "larger", ["b"])],
    "wan": [(5, 8, "isolate", ["b"]), (15, 18, "cut", ["a", "c"]), (25, 28, "stop", ["c"]), (35, 35.3, "kill", ["a"]), (45, 55, "isolate", ["b"])],
    "triangle": [(5, 15, "calm", []), (20, 50, "cut", ["a", "b"])],
    "slow-reader": [(5, 45, "flood", ["a"]), (10, 20, "calm", []), (22, 32, "doze", ["c"]), (34, 44, "calm", [])],
}
HIDDEN = {"nat": ["c"]}
# Whose nodes have wall clocks that can be set.
CLOCKED = {"clock"}
HOUR_S = 3600
CONFIG = {
    "wan": 'link_profile = "wan"\n',
    # One subscription of an application that does not read may end; by default the application is closed.
    "slow-reader": '[streams]\nslow_subscribers = [{ stream = "/^Flood/", policy = "drop-oldest" }]\n',
}
KINDS = {"calm", "remap", "slow", "large", "larger", "flood", "doze", "ahead", "behind"}


def apply(mesh, fault, on):
    """Begins or ends a fault that no seed has."""
    machines = [mesh.machines[name] for name in fault.nodes]
    for machine in machines:
        if fault.kind == "remap" and on:
            machine.map_ports()
        elif fault.kind == "slow":
            machine.limit_rate(on)
        elif fault.kind in ("ahead", "behind"):
            machine.set_clock((HOUR_S if fault.kind == "ahead" else -HOUR_S) if on else 0)
        elif fault.kind == "doze":
            machine.client.process.send_signal(signal.SIGSTOP if on else signal.SIGCONT)
        elif fault.kind in ("large", "larger", "flood") and on:
            machine.client.ask(fault.kind)
        elif fault.kind == "flood":
            machine.client.ask("dry")


def fdc3_cut(mesh, _machine, until):
    """FDC3 apps on three machines; one machine is cut off while both sides broadcast, and one clears a type."""
    machines = mesh.machines
    directory = mesh.home / "apps.json"
    subprocess.run(["node", FDC3 / "headless.mjs", "--write-directory", directory], check=True)
    mesh.configure(f'[fdc3]\ndirectories = ["{directory}"]\n')
    mesh.nodes_up(list(machines.values()))
    for machine, app in zip(machines.values(), ("test-one", "test-two", "test-quoter")):
        machine.launch("fdc3.mjs", "--app", app, "--url", "ws://127.0.0.1:8385/fdc3")
    mesh.clients_answer("ready")

    def ask(name, *words):
        answer = json.loads(machines[name].client.ask(" ".join(words)))
        if str(answer).startswith("failed"):
            raise RuntimeError(f"{name}: {words}: {answer}")
        return answer

    def states():
        return {name: ask(name, "state") for name in machines}

    def agree():
        return len({json.dumps(state["holds"], sort_keys=True) for state in states().values()}) == 1

    # Desktop agents learn of each other in their own time; only then are broadcasts heard everywhere.
    def probed():
        ask("a", "broadcast", "x.probe", "0")
        return all(any(context["type"] == "x.probe" for context in state["heard"]["app channel"]) for name, state in states().items() if name != "a")

    until(probed, 20, "a broadcast to be heard everywhere")
    for context in ("x.cleared", "x.kept", "x.both"):
        ask("b", "broadcast", context, "before")
    until(agree, 10, "the same state everywhere")
    time.sleep(1)
    cut = time.time()
    isolated = Fault(0, 0, "isolate", ["a"])
    mesh.begin(isolated)
    until(lambda: machines["a"].peers_up() == 0, 10, "a to be alone")
    for turn in ("1", "2"):
        ask("a", "broadcast", "x.both", f"a{turn}")
        ask("b", "broadcast", "x.both", f"b{turn}")
        ask("a", "broadcast", "x.a", turn)
        ask("b", "broadcast", "x.b", turn)
    ask("a", "clear", "x.cleared")
    time.sleep(1)
    apart = states()
    healed = time.time() * 1000
    mesh.end(isolated)
    mesh.whole(20)
    until(agree, 20, "the same state everywhere after healing")
    took = time.time() * 1000 - healed
    time.sleep(3)
    final = states()
    late = {name: ask(name, "late") for name in ("b", "c")}

    holds = final["a"]["holds"]
    current = {(context["type"], context["value"]) for context in holds.values() if context}
    unlike = [f"{name}: {state['holds']}" for name, state in final.items() if state["holds"] != holds]
    wrong = [f"{key}: {context}" for key, context in holds.items() if "x.cleared" in key and context]
    lost = [key for key in holds if not holds[key] and "x.cleared" not in key]
    wrong_apart = [f"{name}: {value}" for name, value in (("a", "a2"), ("b", "b2"), ("c", "b2")) for key, context in apart[name]["holds"].items() if key.endswith("x.both") and context["value"] != value]
    extra, old, count = [], [], 0
    for name, state in final.items():
        for listener, contexts in state["heard"].items():
            after = [context for context in contexts if context["at"] >= healed]
            count += len(after)
            types = [context["type"] for context in after]
            if len(types) > len(set(types)):
                extra.append(f"{name}, {listener}: {after}")
            old += [f"{name}, {listener}: {context}" for context in after if (context["type"], context["value"]) not in current]
    zombies = [f"{name}: {contexts}" for name, contexts in late.items() if any(context["type"] == "x.cleared" for context in contexts)]
    silent = [f"{name} hears nothing" for name, contexts in late.items() if not contexts]
    verdicts = [
        ("while apart, each side reads what it broadcast last", wrong_apart),
        ("after healing all read the same", unlike + lost),
        ("what was cleared on one side is gone on both", wrong),
        ("each listener hears one context more of each type at most", extra),
        ("nothing that is not current is heard after healing", old),
        ("a newcomer hears nothing that was cleared", zombies + silent),
    ]
    figures = [f"apart for {healed / 1000 - cut:.1f} s; the same state {took:.0f} ms after healing", f"heard after healing by {3 * len(machines)} listeners: {count}", f"newcomers hear {late}", f"channels hold {holds}"]
    return verdicts, figures


def clones(mesh, machine_of, until):
    """Machines that start at once from copies of the disk of one that is in the mesh.

    Half of them are told apart by where their disks are; the others only by the nodes they meet.
    """
    home, machines = mesh.home, mesh.machines
    mesh.spare = [machine_of(f"clone{number}", home, machines["a"].deskmesh, number=100 + number) for number in range(CLONES)]
    mesh.nodes_up(list(machines.values()))
    original = machines["c"]
    for number, clone in enumerate(mesh.spare):
        shutil.copytree(original.data, clone.data)
        if number % 2:
            (clone.data / "identity" / "place").unlink()
    for clone in mesh.spare:
        clone.start()
    everybody = [*machines.values(), *mesh.spare]
    began = time.monotonic()
    until(lambda: all(machine.peers_up() == len(everybody) - 1 for machine in everybody), 60, "all to see all")
    took = time.monotonic() - began
    settled = {machine.name: lives(machine) for machine in everybody}
    cpu_before = {machine.name: machine.cpu_s() for machine in everybody}
    time.sleep(20)
    later = {machine.name: lives(machine) for machine in everybody}
    cpu = {machine.name: machine.cpu_s() - cpu_before[machine.name] for machine in everybody}
    ids = {json.loads(machine.ask("status", "--json"))["node"] for machine in everybody}
    parted = {clone.name: sum("has an id of its own now" in line for line in log_of(clone)) for clone in mesh.spare}
    told = {clone.name: sum("knows a newer life of this one" in line for line in log_of(clone)) for clone in everybody}
    moved = [f"{name}: {settled[name]}, later {later[name]}" for name in settled if settled[name] != later[name]]
    verdicts = [
        ("all have ids of their own", [] if len(ids) == len(everybody) else [f"{len(ids)} ids of {len(everybody)}"]),
        ("nothing goes to and fro", moved),
        ("each parts once at most", [f"{name}: {times}" for name, times in parted.items() if times > 1]),
    ]
    figures = [
        f"{len(ids)} ids of {len(everybody)} nodes, {CLONES} of them copies; all see all {took:.1f} s after the last was started",
        f"copies that parted when they started or met others: {sum(parted.values())}; told by others of a newer life: {sum(count > 0 for count in told.values())} nodes",
        f"processor time in 20 s: a {cpu['a']:.2f} s, the busiest clone {max(cpu[clone.name] for clone in mesh.spare):.2f} s",
    ]
    return verdicts, figures


def lives(machine):
    return sorted((peer["node"], peer["incarnation"], peer["state"]) for peer in json.loads(machine.ask("peers", "--json")))


def log_of(machine):
    return (machine.home / "log").read_text().splitlines()


PLAYS = {"fdc3-cut": fdc3_cut, "clones": clones}
