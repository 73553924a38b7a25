#!/bin/sh
# A mesh of three nodes in network namespaces, under faults. Needs root, nft, /dev/net/tun, Node.js, Python 3.
#
#   ./run.sh --seed N --seconds S --deskmesh PATH
exec python3 -B "$(dirname "$0")/run.py" "$@"
