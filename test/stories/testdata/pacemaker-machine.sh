#!/bin/sh
# Makes a testbed node a machine of its own for Corosync and Pacemaker, and runs
# them: pacemaker-machine.sh DIR, with corosync.conf, authkey and the OCF agent in DIR.
set -eu
dir=$1
agents=/usr/lib/ocf/resource.d
mkdir -p "$dir/keep"
mount --bind "$agents" "$dir/keep"
mount -t tmpfs none "$agents"
for p in "$dir"/keep/*; do
	mkdir "$agents/${p##*/}"
	mount --bind "$p" "$agents/${p##*/}"
done
mkdir -p "$agents/revolve"
install -m 755 "$dir/revolve" "$agents/revolve/revolve"
for d in /etc/corosync /var/lib/corosync /var/lib/pacemaker /run /dev/shm /var/log; do
	mount -t tmpfs none "$d"
done
install -m 644 "$dir/corosync.conf" /etc/corosync/corosync.conf
install -m 400 "$dir/authkey" /etc/corosync/authkey
mkdir -p /var/log/corosync /var/log/cluster
for d in /run/crm /var/lib/pacemaker/cib /var/lib/pacemaker/pengine /var/lib/pacemaker/cores /var/lib/pacemaker/blackbox /var/log/pacemaker; do
	install -d -o hacluster -g haclient -m 750 "$d"
done
corosync -f &
until corosync-cfgtool -s >/dev/null 2>&1; do
	kill -0 $! || exit 1
	sleep 0.2
done
exec pacemakerd -f
