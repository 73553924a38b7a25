#!/bin/sh
# Judges the WebSocket endpoint with Autobahn: an echo behind the node's own endpoint code, all cases.
# Fails if a case fails. The report is in target/autobahn/reports; see docs/conformance-websocket.md.
set -eu

cd "$(dirname "$0")/../.."
work=$PWD/target/autobahn
port=${PORT:-39011}

cargo build -q -p deskmesh --example echo
[ -f "$work/root/installed" ] || { tests/autobahn/install.sh "$work/root" && touch "$work/root/installed"; }

target/debug/examples/echo "$port" &
echo=$!
trap 'kill $echo' EXIT

mkdir -p "$work"
cat >"$work/spec.json" <<END
{
	"outdir": "$work/reports",
	"servers": [{"agent": "deskmesh", "url": "ws://127.0.0.1:$port", "options": {"version": 18}}],
	"cases": ["${CASES:-*}"],
	"exclude-cases": [],
	"exclude-agent-cases": {}
}
END
"$work/root/python" -c 'from autobahntestsuite.wstest import run; run()' -m fuzzingclient -s "$work/spec.json" \
	>"$work/log" 2>&1
python3 tests/autobahn/summary.py "$work/reports/index.json"
