"""Counts the cases of an Autobahn report by behaviour; fails if one failed."""

import collections
import json
import sys

BAD = {"FAILED", "WRONG CODE", "UNCLEAN", "FAILED BY CLIENT"}

cases = json.load(open(sys.argv[1]))["deskmesh"]
by_key = lambda case: [int(part) for part in case.split(".")]
failed = []
for what in ["behavior", "behaviorClose"]:
    counts = collections.Counter(case[what] for case in cases.values())
    print(what, dict(counts.most_common()))
    for behaviour in counts:
        if behaviour in BAD or behaviour == "NON-STRICT":
            found = sorted((name for name, case in cases.items() if case[what] == behaviour), key=by_key)
            print(" ", behaviour, *found)
            failed += found if behaviour in BAD else []
print(len(cases), "cases")
sys.exit(bool(failed))
