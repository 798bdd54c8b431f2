#!/bin/sh
# A WireGuard tunnel in the foreground, by wireguard-go: for `exec`, where the
# kernel has no WireGuard or systemd does not run. The same keys on every node.
# The configuration may be one of wg-quick's; of what only wg-quick knows
# (Address, PostUp and so on) nothing is done.
#
# usage: tunnel.sh [INTERFACE [CONFIGURATION [ADDRESS]]]
set -eu
interface=${1:-wg0} configuration=${2:-/etc/wireguard/wg0.conf} address=${3:-10.9.0.1/24}
socket=/var/run/wireguard/$interface.sock

rm -f "$socket" # of one that was killed
wireguard-go -f "$interface" &
tunnel=$!
trap 'kill "$tunnel" || :' EXIT
trap 'exit 143' TERM INT
until [ -S "$socket" ]; do
	kill -0 "$tunnel" # it ends here if wireguard-go has ended
	sleep 0.1
done
keys=$(wg-quick strip "$configuration")
echo "$keys" | wg setconf "$interface" /dev/stdin
ip address add "$address" dev "$interface"
ip link set "$interface" up
wait "$tunnel"
