#!/usr/bin/env bash
# Makes a bare Debian system as a tar file: ./scripts/package-base.sh FILE. It has
# what every Debian has, systemd as its first process, and what the tests look
# with (ip); from the Debian mirror that this machine uses. Needs root and mmdebstrap.
set -euo pipefail
[ $# -eq 1 ] || { echo "usage: $0 FILE" >&2; exit 2; }
mkdir -p "$(dirname "$1")"
mmdebstrap --quiet --variant=minbase --include=systemd,systemd-sysv,dbus,iproute2 --format=tar "${SUITE:-bookworm}" "$1.part.tar"
mv "$1.part.tar" "$1"
