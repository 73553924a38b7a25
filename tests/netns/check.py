"""The promises that the histories of three applications are held against."""

import json
import re
import statistics
from collections import Counter, defaultdict

# After its node was killed, an application is shown its own value again before the present one.
RETURN_MS = 8_000
NOT_RUN = {"no_target", "not_delivered", "overloaded"}
WORDS = [
    ("not_delivered", r"not delivered"),
    ("unknown_outcome", r"unknown outcome|Peer has left"),
    ("no_target", r"no such target|Method has been removed|[Cc]an ?not find|not found|No method"),
    ("deadline", r"deadline"),
    ("overloaded", r"overloaded"),
    ("library: timeout", r"[Tt]imeout|timed out"),
    ("library: connection", r"no reason|[Cc]onnection|[Dd]isconnect|socket|[Ss]ession"),
]


def read(path):
    with open(path, encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def of(history, *events):
    return [entry for entry in history if entry["event"] in events]


def word(entry):
    """The outcome of a call, by what the application was told."""
    if entry["outcome"] == "answered":
        return "ok"
    return next((name for name, pattern in WORDS if re.search(pattern, entry["error"])), "other: " + entry["error"])


def connected_throughout(history, start, end):
    """Whether the application had its node all that time."""
    breaks = of(history, "disconnected", "connected")
    inside = any(start <= entry["at"] <= end for entry in breaks)
    before = [entry for entry in breaks if entry["at"] < start]
    return not inside and (not before or before[-1]["event"] == "connected")


def verdicts(histories, notes):
    return [
        ("updates of each application were acknowledged", at_work(histories)),
        ("no acknowledged context update is lost", updates(histories)),
        ("all copies of a context are equal after healing", copies(histories)),
        ("no application sees a key go back", going_back(histories, notes)),
        ("no call runs twice", twice(histories)),
        ("an answered call ran once, with its own answer; one that was not delivered never ran", honest(histories)),
        ("no call hangs", hanging(histories, notes)),
        ("stream data comes in order, and not twice", ordered(histories)),
        ("a publication comes once at most", once(histories)),
        ("streams and bus reach all after healing", reaching(histories)),
    ]


def finals(histories):
    return {
        (name, entry["who"], entry["context"]): entry["value"]
        for name, history in histories.items()
        for entry in of(history, "holds")
    }


def at_work(histories):
    return [f"{name} had none" for name, history in histories.items() if not of(history, "updated")]


def updates(histories):
    """A key of one writer may hold the value that was acknowledged last, or one that was asked for later and whose
    end is not known. `None` is a key that is not there."""
    broken, values = [], finals(histories)
    for name, history in histories.items():
        acknowledged = {entry["id"] for entry in of(history, "updated")}
        allowed, witness = {}, {}
        for entry in of(history, "update"):
            if entry["key"] == "all":
                continue
            key = (entry["context"], entry["key"])
            if entry["id"] in acknowledged:
                allowed[key] = {entry["value"]}
                witness[key] = entry
            else:
                allowed.setdefault(key, {None}).add(entry["value"])
        for (context, key), right in allowed.items():
            for (place, who, of_context), value in values.items():
                if of_context == context and value.get(key) not in right:
                    told = witness.get((context, key))
                    broken.append(f"{context}.{key} is {value.get(key)} for {who} at {place}, not {right}; acknowledged: {told}")
    return broken


def copies(histories):
    values, broken = finals(histories), []
    for context in ("ledger", "board"):
        seen = {place: value for place, value in values.items() if place[2] == context}
        if len(seen) != 2 * len(histories):
            broken.append(f"{context}: only {len(seen)} copies were read")
        if len({json.dumps(value, sort_keys=True) for value in seen.values()}) > 1:
            keys = set().union(*seen.values())
            differing = [key for key in keys if len({value.get(key) for value in seen.values()}) > 1]
            for key in sorted(differing):
                broken.append(f"{context}.{key}: " + ", ".join(f"{who} at {at} {v.get(key)}" for (at, who, _), v in seen.items()))
    return broken


def going_back(histories, notes):
    """Of the keys that one application writes with rising values."""
    broken = []
    for name, history in histories.items():
        newest, returned = {}, 0
        for entry in history:
            if entry["event"] == "connected":
                returned = entry["at"]
            if entry["event"] != "saw" or entry["context"] != "board":
                continue
            for key, value in (entry["delta"] or {}).items():
                if key == "all" or not isinstance(value, int):
                    continue
                if value < newest.get(key, 0) and entry["at"] > returned + RETURN_MS:
                    broken.append(f"board.{key} at {name}: {value} after {newest[key]}, at {entry['at']}")
                newest[key] = max(value, newest.get(key, 0))
    return broken


def runs(histories):
    return Counter(entry["id"] for history in histories.values() for entry in of(history, "ran"))


def twice(histories):
    return [f"{call} ran {count} times" for call, count in runs(histories).items() if count > 1]


def honest(histories):
    broken, ran = [], runs(histories)
    for history in histories.values():
        for entry in of(history, "ended"):
            outcome, count = word(entry), ran[entry["id"]]
            if outcome == "ok" and (count != 1 or entry["returned"] != entry["id"]):
                broken.append(f"{entry} ran {count} times")
            if outcome in NOT_RUN and count:
                broken.append(f"{entry} ran")
    return broken


def hanging(histories, notes):
    """Each call ends. The library's own time limit may end it only if the application lost its node meanwhile, or slept."""
    broken, asleep = [], spans_of(notes, "sleep", "doze")
    for name, history in histories.items():
        ended = {}
        for entry in of(history, "ended"):
            if entry["id"] in ended:
                broken.append(f"{entry['id']} ended twice")
            ended[entry["id"]] = entry
        for entry in of(history, "call"):
            end = ended.get(entry["id"])
            if end is None:
                broken.append(f"{entry} never ended")
            elif word(end) == "library: timeout" and connected_throughout(history, entry["at"], end["at"]):
                if any(name in note["nodes"] and note["at"] <= end["at"] and entry["at"] <= until for note, until in asleep):
                    continue
                broken.append(f"{entry} ended by the library: {end['error']}")
    return broken


def ordered(histories):
    broken = []
    for name, history in histories.items():
        last = defaultdict(int)
        for entry in of(history, "data"):
            branch = (entry["provider"], entry["subscription"])
            if entry["n"] <= last[branch]:
                broken.append(f"{name} of {branch}: {entry['n']} after {last[branch]}, at {entry['at']}")
            last[branch] = entry["n"]
    return broken


def once(histories):
    broken = []
    for name, history in histories.items():
        count = Counter((entry["publisher"], entry["n"]) for entry in of(history, "heard"))
        broken += [f"{name} heard {publication} {times} times" for publication, times in count.items() if times > 1]
    return broken


def reaching(histories):
    broken = []
    for name, history in histories.items():
        for other in histories.keys() - {name}:
            if not any(entry.get("marked") and entry["provider"] == other for entry in of(history, "data")):
                broken.append(f"{name} had nothing of the stream of {other}")
            if not any(entry.get("marked") and entry["publisher"] == other for entry in of(history, "heard")):
                broken.append(f"{name} heard nothing that {other} published")
    return broken


def spread(values):
    if not values:
        return "never"
    return f"{len(values)} times, median {statistics.median(values):.0f} ms, longest {max(values):.0f} ms"


def pairs(note):
    """Which application must lose which, by a fault."""
    everybody = {"a", "b", "c"}
    if note["kind"] in ("cut", "one-way"):
        one, other = note["nodes"]
        return [(one, other), (other, one)]
    if note["kind"] not in ("isolate", "kill", "leave", "stop", "address", "sleep", "remap"):
        return []
    node = note["nodes"][0]
    others = sorted(everybody - {node})
    # A node that is dead or asleep tells its application nothing.
    watching = [(other, node) for other in others]
    return watching + ([(node, other) for other in others] if note["kind"] in ("isolate", "address", "sleep", "remap") else [])


def spans_of(notes, *kinds):
    """The beginnings of faults of these kinds, each with the time of its end."""
    ends = {(note["start"], note["kind"], *note["nodes"]): note["at"] for note in notes if note["verb"] == "end"}
    begun = [note for note in notes if note["verb"] == "begin" and (not kinds or note["kind"] in kinds)]
    return [(note, ends[(note["start"], note["kind"], *note["nodes"])]) for note in begun]


def figures(histories, notes):
    gone, back, around, refused, kept, again = (defaultdict(list) for _ in range(6))
    for note, end in alone(notes):
        for one, other in pairs(note):
            kind = note["kind"] + (", as it sees others" if one in note["nodes"] and note["kind"] in ("sleep", "stop") else "")
            application = f"client-{other}"
            changes = [e for e in of(histories[one], "server-added", "server-removed") if e["application"] == application]
            removed = next((e["at"] for e in changes if e["event"] == "server-removed" and note["at"] <= e["at"] <= end + 1500), None)
            if removed is None:
                kept[kind].append(one)
                continue
            gone[kind].append(removed - note["at"])
            added = next((e["at"] for e in changes if e["event"] == "server-added" and e["at"] >= removed), None)
            if added is not None:
                (back if added >= end else around)[kind].append(added - (end if added >= end else note["at"]))
                again[kind] += [added for e in changes if e["event"] == "server-removed" and added < e["at"] <= added + 2000]
            refused[kind] += calls_between(histories[one], removed, min(end, added or end), other)
    for kind in sorted(gone.keys() | kept.keys()):
        yield f"{kind}: withdrawn {spread(gone[kind])}; not at all {len(kept[kind])} times"
        if around[kind]:
            yield f"{kind}: there again by way of the third, after it began: {spread(around[kind])}"
        yield f"{kind}: back after it ended: {spread(back[kind])}; withdrawn again within 2 s {len(again[kind])} times"
        words = Counter(word(end) for _, end in refused[kind])
        longest = max((end["at"] - call["at"] for call, end in refused[kind]), default=0)
        yield f"{kind}: calls to who was withdrawn: {dict(words)}, longest {longest} ms"
    outcomes, took = Counter(), defaultdict(list)
    for history in histories.values():
        begun = {entry["id"]: entry["at"] for entry in of(history, "call")}
        for entry in of(history, "ended"):
            outcome = word(entry)
            outcomes[outcome] += 1
            took[outcome].append(entry["at"] - begun[entry["id"]])
    yield f"calls: {sum(outcomes.values())}"
    for outcome, count in outcomes.most_common():
        yield f"  {outcome} {count}, longest {max(took[outcome])} ms"
    counts = Counter(entry["event"] for history in histories.values() for entry in history)
    for event in ("updated", "update-failed", "update-unknown", "data", "heard", "not-subscribed", "closed", "disconnected"):
        yield f"{event}: {counts[event]}"


def alone(notes):
    """The faults that no other one overlapped or followed within 2 s: of those the times mean something."""
    spans = spans_of(notes)
    for index, (note, end) in enumerate(spans):
        others = spans[:index] + spans[index + 1:]
        if all(later["at"] > end + 2000 or done + 2000 < note["at"] for later, done in others):
            yield note, end


def calls_between(history, start, end, callee):
    """Calls to an application that began in that time, each with its end."""
    ended = {entry["id"]: entry for entry in of(history, "ended")}
    begun = (entry for entry in of(history, "call") if entry["callee"] == callee and start <= entry["at"] <= end)
    return [(entry, ended[entry["id"]]) for entry in begun if entry["id"] in ended]


def percentiles(values):
    if not values:
        return "none"
    ordered = sorted(values)
    return f"{len(values)}, median {statistics.median(values):.0f} ms, p99 {ordered[len(ordered) * 99 // 100]} ms, longest {ordered[-1]} ms"


def phases(histories, notes):
    """How long calls that only answer and context updates took while each fault lasted, between all whom it did not stop."""
    for note, end in spans_of(notes, "calm", "cut", "slow", "large", "larger", "doze"):
        stopped = note["nodes"] if note["kind"] == "doze" else []
        running = {name: history for name, history in histories.items() if name not in stopped}
        calls = [
            (call, ended) for history in running.values() for callee in running
            for call, ended in calls_between(history, note["at"], end, callee) if call["workMs"] == 0
        ]
        took = [ended["at"] - call["at"] for call, ended in calls if word(ended) == "ok"]
        where = f"{note['kind']} {' '.join(note['nodes'])} at {note['start']:g} s"
        yield f"{where}: calls answered: {percentiles(took)}; others {dict(Counter(word(e) for _, e in calls if word(e) != 'ok'))}"
        yield f"{where}: updates at others: {percentiles(arrivals(running, note['at'], end))}"
        after = next(later["memory"] for later in notes if later["verb"] == "end" and later["start"] == note["start"] and later["kind"] == note["kind"])
        yield f"{where}: resident memory of the nodes: " + ", ".join(f"{name} {before} to {after[name]} KiB" for name, before in note["memory"].items())
    begun = {entry["bytes"]: entry["at"] for history in histories.values() for entry in of(history, "large")}
    for name, history in histories.items():
        for entry in of(history, "large-here"):
            yield f"a context of {entry['bytes']} bytes was at {name} after {entry['at'] - begun[entry['bytes']]} ms"
        for entry in of(history, "flood-closed", "flood-failed"):
            yield f"flood at {name}: {entry}"


def arrivals(histories, start, end):
    """How long updates of the ledger, where each has a key of its own, took to the other applications."""
    took = []
    for name, history in histories.items():
        asked = {entry["key"]: entry["at"] for entry in of(history, "update") if entry["context"] == "ledger" and entry["value"] is not None and start <= entry["at"] <= end}
        for other, seen in histories.items():
            if other != name:
                first = {}
                for entry in of(seen, "saw"):
                    for key in asked.keys() & (entry["delta"] or {}).keys():
                        first.setdefault(key, entry["at"])
                took += [at - asked[key] for key, at in first.items()]
    return took
