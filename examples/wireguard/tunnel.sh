#!/bin/sh
# A WireGuard tunnel in the foreground, by wireguard-go: for `exec`, where the
# kernel has no WireGuard or systemd does not run. The same keys on every node.
#
# usage: tunnel.sh [INTERFACE [CONFIGURATION [ADDRESS]]]
set -eu
interface=${1:-wg0} configuration=${2:-/etc/wireguard/wg0.conf} address=${3:-10.9.0.1/24}

wireguard-go -f "$interface" &
tunnel=$!
trap 'kill "$tunnel"' TERM INT
until wg setconf "$interface" "$configuration" 2>/dev/null; do
	kill -0 "$tunnel" # it ends here if wireguard-go has ended
	sleep 0.1
done
ip address add "$address" dev "$interface"
ip link set "$interface" up
wait "$tunnel"
