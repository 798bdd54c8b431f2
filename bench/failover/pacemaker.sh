#!/bin/sh
# pacemaker.sh CONF: Corosync and Pacemaker on a node that shares its files with the others.
set -eu
for d in /etc/corosync /var/lib/corosync /var/lib/pacemaker /run /dev/shm /var/log; do
	mount -t tmpfs none "$d"
done
install -m 644 "$1" /etc/corosync/corosync.conf
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
