#!/bin/bash
# A client of NFS that reads one large file slowly, so that it is open when the server moves, again and again.
# It says each step with its time in nanoseconds. usage: nfs_read.sh URL ORIGINAL
say() { echo "$(date +%s%N) $*"; }
slowly() { while [ "$(dd bs=1M count=1 iflag=fullblock status=none | tee -a nfs-got | wc -c)" -gt 0 ]; do sleep 0.2; done; }
while :; do
	: >nfs-got
	say open
	timeout 60 nfs-cat "$1" 2>nfs-said | slowly
	if cmp -s nfs-got "$2"; then say whole; else say "error $(tail -n 1 nfs-said | tr -d '\n') ($(stat -c %s nfs-got) bytes had come)"; fi
	sleep 0.2
done
