#!/usr/bin/env bash
# Runs the tests: ./scripts/test.sh [PART...]; without arguments, all parts in
# this order. Every part runs even if one before it failed; the exit status is 0
# only if all passed. Written for a bare Debian 12 with Go 1.26.
set -uo pipefail
cd "$(dirname "$0")/.."
. scripts/before.sh

ALL="tools format vet staticcheck tidy build unit race e2e"
STATICCHECK=honnef.co/go/tools/cmd/staticcheck@v0.8.2
LIMIT=1500 # seconds for everything: two cores need far less, a hang must end
# command:package, for each external program that some test needs.
NEEDS="gcc:gcc mkfs.xfs:xfsprogs mkfs.ext4:e2fsprogs mkfs.btrfs:btrfs-progs rsync:rsync ip:iproute2 nft:nftables strace:strace ps:procps named:bind9 rndc:bind9-utils dig:bind9-dnsutils dnsmasq:dnsmasq-base dbus-daemon:dbus-daemon mandoc:mandoc systemd:systemd prlimit:util-linux keepalived:keepalived corosync:corosync pacemakerd:pacemaker cibadmin:pacemaker-cli-utils ocf-tester:resource-agents xmllint:libxml2-utils git:git promtool:prometheus prometheus-alertmanager:prometheus-alertmanager chromium:chromium btrfs:btrfs-progs qemu-io:qemu-utils libvirtd:libvirt-daemon virsh:libvirt-clients qemu-system-x86_64:qemu-system-x86 qemu-ga:qemu-guest-agent swtpm:swtpm swtpm_setup:swtpm-tools busybox:busybox-static cpio:cpio smbd:samba smbclient:smbclient setfacl:acl setfattr:attr nix-instantiate:nix-bin"
# What make test-services needs beside them.
NEEDS_SERVICES="ganesha.nfsd:nfs-ganesha nfs-cp:libnfs-utils wireguard-go:wireguard-go wg:wireguard-tools ping:iputils-ping sshd:openssh-server sshfs:sshfs"
# What make test-packages needs beside them.
NEEDS_PACKAGES="mmdebstrap:mmdebstrap lintian:lintian"

if [ -z "${REVOLVE_TEST_LIMITED:-}" ]; then
	REVOLVE_TEST_LIMITED=1 exec timeout --foreground --signal=TERM --kill-after=30 "$LIMIT" "$BASH" "$0" "$@"
fi

LOGS=$(mktemp -d)
trap 'rm -rf "$LOGS"' EXIT
# Each part is a process group of its own, so that the limit or Ctrl-C ends what
# it started too.
set -m
JOB=""
trap 'trap - INT TERM; echo "interrupted or out of time"; [ -z "$JOB" ] || kill -TERM -- "-$JOB"; exit 124' INT TERM
FAILED=""
PARTS=("$@")
[ ${#PARTS[@]} -gt 0 ] || read -ra PARTS <<<"$ALL"

# missing LIST: the packages of what is not there.
missing() {
	local need
	for need in $1; do
		PATH=$PATH:/usr/sbin:/sbin command -v "${need%%:*}" >/dev/null || echo "${need##*:}"
	done
	# What is no command: the guest's kernel, libvirt's driver, and ganesha's for files.
	compgen -G "/boot/vmlinuz-*-cloud-amd64" >/dev/null || echo linux-image-cloud-amd64
	compgen -G "/usr/lib/*/libvirt/connection-driver/libvirt_driver_qemu.so" >/dev/null || echo libvirt-daemon-driver-qemu
	[[ "$1" != *ganesha* ]] || compgen -G "/usr/lib/*/ganesha/libfsalvfs.so" >/dev/null || echo nfs-ganesha-vfs
}

enabled_units() { systemctl list-unit-files --no-legend --no-pager --state=enabled 2>/dev/null | awk '{print $1}' | sort -u; }

# disable_new ENABLED: what was installed for tests does not start at the next boot either.
disable_new() {
	local units
	mapfile -t units < <(comm -13 <(echo "$1") <(enabled_units))
	[ ${#units[@]} -eq 0 ] || { echo "disabling ${units[*]}" && systemctl disable --quiet "${units[@]}"; }
}

# Packages are installed with a policy that starts none of their daemons
# (policy-rc.d, Debian policy 9.3.3.1); whatever policy was there comes back.
install_missing() {
	local packages=("$@") policy=/usr/sbin/policy-rc.d kept="" enabled
	enabled=$(enabled_units)
	if [ -e "$policy" ]; then
		kept=$LOGS/policy-rc.d
		cp -p "$policy" "$kept"
	fi
	printf '#!/bin/sh\nexit 101\n' >"$policy" && chmod 755 "$policy"
	{ DEBIAN_FRONTEND=noninteractive apt-get update -qq &&
		DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${packages[@]}"; } >"$LOGS/apt" 2>&1
	local status=$?
	if [ -n "$kept" ]; then cp -p "$kept" "$policy"; else rm -f "$policy"; fi
	[ -z "$enabled" ] || disable_new "$enabled"
	[ $status -eq 0 ] || tail -n 5 "$LOGS/apt"
	return $status
}

part_tools() {
	provide "$NEEDS"
	[ "$(id -u)" -eq 0 ] || echo "SKIPPED PART: what needs root"
	go version
}

# provide LIST installs what is missing of it, or says so.
provide() {
	local lack
	mapfile -t lack < <(missing "$1")
	if [ ${#lack[@]} -gt 0 ] && [ "$(id -u)" -eq 0 ] && command -v apt-get >/dev/null; then
		echo "installing ${lack[*]}"
		install_missing "${lack[@]}"
		mapfile -t lack < <(missing "$1")
	fi
	if [ ${#lack[@]} -gt 0 ]; then
		echo "SKIPPED PART: what needs ${lack[*]} (not installed; as root: apt-get install ${lack[*]})"
	fi
}

part_format() {
	local files
	files=$(gofmt -l bench cmd internal test) || return 1
	[ -z "$files" ] || { echo "not formatted (make fmt): $files"; return 1; }
}

part_vet() { go vet ./...; }

# The checker is fetched by the Go toolchain; without a network that is no
# failure of ours.
part_staticcheck() {
	if ! go run "$STATICCHECK" -version; then
		echo "SKIPPED PART: staticcheck (cannot be fetched)"
		return 0
	fi
	go run "$STATICCHECK" ./...
}

part_tidy() { go test -count=1 ./internal/tidy; }

part_build() { make -s build && ./dist/revolve version; }

# The end-to-end tests run alone: nodes that share two cores with compilers are late.
packages() { go list ./... | grep -v -e '/internal/e2e' -e '/test/' -e '/internal/tidy$'; }

# What waits most of its time, two minutes of it, for silences and heartbeats of real kernels.
BEAT=./internal/failover/beat

# in_memory COMMAND...: runs it with its temporary files on an ext4 in memory: every fsync of the tests goes to that
# filesystem, and none waits for this machine's disk. It is mounted on /mnt (FHS 3.12: for what is mounted for a while), in a
# namespace, and ends with the command. A name that changed would keep results from being remembered (go help test).
in_memory() {
	local at=/mnt
	if [ "$(id -u)" -ne 0 ] || [ ! -d $at ] || [[ "$PWD/ $(go env GOCACHE GOMODCACHE GOROOT | tr '\n' ' ')" == *$at/* ]] ||
		[ ! -d /dev/shm ] || [ "$(df --output=avail -k /dev/shm | tail -n 1)" -lt 6000000 ] ||
		[ "$(awk '/^MemAvailable/ {print $2}' /proc/meminfo)" -lt 9000000 ] || ! unshare --mount true; then
		"$@"
		return
	fi
	# shellcheck disable=SC2016
	unshare --mount --propagation private "$BASH" -c '
		image=$(mktemp /dev/shm/revolve-XXXXXX) && exec 9<"$image" && truncate -s 16G "$image" &&
			mkfs.ext4 -q -F -E lazy_itable_init=1,lazy_journal_init=1,nodiscard "$image" &&
			rm "$image" && mount -o loop,discard /proc/self/fd/9 "$0" && chmod 1777 "$0" && export TMPDIR="$0" ||
			{ rm -f "$image" && echo "temporary files of the tests stay on the disk"; }
		exec 9<&-
		exec "$@"' $at "$@"
}

# Fuzz targets run their seeds here. Nothing is vetted again that was in part vet.
part_unit() {
	local leave=nothing
	[[ " ${PARTS[*]} " != *" race "* ]] || leave=/failover/beat
	# shellcheck disable=SC2046
	in_memory go test -vet=off -v -timeout 10m $(packages | grep -v -e "$leave\$")
}

# The race detector needs a C compiler, and is worth its time where goroutines are: not in the
# election, which is PURE, and is searched with them in unit. Beside
# it, and before it in priority, runs what waits most of its time.
part_race() {
	local beat="" status=0
	if [[ " ${PARTS[*]} " == *" unit "* ]]; then
		go test -vet=off -v -timeout 10m "$BEAT" >"$LOGS/beat" 2>&1 </dev/null &
		beat=$!
	fi
	race || status=$?
	if [ -n "$beat" ]; then
		wait "$beat" || status=$?
		cat "$LOGS/beat"
	fi
	return $status
}

race() {
	if ! command -v gcc >/dev/null; then
		echo "SKIPPED PART: race detector (no gcc)"
		return 0
	fi
	local list
	list=$(grep -lE '\bgo func|\.Go\(|AfterFunc\(|errgroup' -r cmd internal --include='*.go' | xargs -n1 dirname | sort -u |
		grep -v -e internal/e2e -e internal/tidy -e internal/failover/election$ | sed 's|^|./|')
	# A program under the detector waits a second when it ends, for goroutines that it leaves running; the tests look for those
	# themselves (goleak). On a stage each test is three programs.
	# shellcheck disable=SC2086
	CGO_ENABLED=1 GORACE="atexit_sleep_ms=20" in_memory nice go test -vet=off -race -short -v -timeout 10m $list
}

# The program of the version before, for clusters in the middle of an upgrade (before.sh).
# Without it that test is skipped, and the others go on.
before() {
	local source=$LOGS/before skip="SKIPPED PART: nodes of two versions in one cluster" at
	if ! at=$(version_before "${PRODUCT[@]}"); then
		echo "$skip (the commit ${BEFORE:-before the last change of the product} is not in this checkout; git fetch --unshallow, or BEFORE=COMMIT)"
		return
	fi
	echo "# two versions: $(git log -1 --format='%h %s' "$at"), and this one after $(git log -1 --format='%h %s' HEAD)"
	if git diff --quiet "$at" -- "${PRODUCT[@]}"; then
		echo "$skip (the product of $at is the same as this one; BEFORE=COMMIT names another)"
		return
	fi
	if ! { mkdir -p "$source" && git archive "$at" | tar -C "$source" -xf - &&
		(cd "$source" && CGO_ENABLED=0 go build -trimpath -o "$LOGS/revolve-before" ./cmd/revolve); }; then
		echo "$skip ($at does not build; BEFORE=COMMIT names another)"
	fi
	rm -rf "$source"
}

part_e2e() {
	before
	[ ! -e "$LOGS/revolve-before" ] || export REVOLVE_BEFORE=$LOGS/revolve-before
	REVOLVE_BIN=$PWD/dist/revolve go test -p 1 -parallel 3 -count=1 -v -timeout 15m ./internal/e2e/... ./test/...
}

# Not one of ALL: make test-packages.
part_package_tools() { provide "$NEEDS $NEEDS_PACKAGES"; }

# Not one of ALL: make test-services.
part_services() {
	provide "$NEEDS $NEEDS_SERVICES"
	REVOLVE_BIN=$PWD/dist/revolve REVOLVE_SERVICES=$PWD/bench/SERVICES.md go test -count=1 -v -timeout 20m -run '^(TestShares|TestServices|TestClockStep)$' ./test/stories
}

# What failed, in the tests' own words: of each test that failed, the lines that it
# said itself (`    foo_test.go:12: ...`, errors and notes look alike) with the
# beginning of what belongs to them, without the dumped logs of its nodes.
words() {
	awk '
	/^=== (RUN|CONT|NAME)/ { sub(/\/.*/, "", $3); now = $3; more = 0; next }
	/^--- (PASS|SKIP): /   { delete said[$3]; more = 0; next }
	/^--- FAIL: /          { printf "%s%s\n", said[$3], $0; delete said[$3]; more = 0; next }
	/^ +[A-Za-z0-9_]+\.go:[0-9]+: / {
		match($0, /^ +/); depth = RLENGTH
		more = 0
		if ($0 ~ /go:[0-9]+: (-- .*\.log$|log of |LATE: )/) next
		said[now] = said[now] substr($0, 1, 500) "\n"; more = 8; next
	}
	more > 0 {
		match($0, /^ */)
		if (RLENGTH <= depth || $0 ~ /^ *(===|---) /) { more = 0; next }
		said[now] = said[now] substr($0, 1, 500) "\n"; more--
	}' "$1"
}

# Verbose output is kept for counting skips; shown are go test's closing lines,
# and everything around what failed.
show() {
	local log=$1 status=$2
	if [ "$status" -ne 0 ] && grep -qE '^(=== RUN|--- FAIL)' "$log"; then
		echo "-- what failed"
		words "$log" | head -n 200
		echo "-- and around it"
		grep -nE -B 40 '^ *--- FAIL' "$log" | grep -vE -- '(=== (RUN|PAUSE|CONT)|--- PASS)' | tail -n 200
		grep -nE -A 60 '^(panic:|fatal error:|WARNING: DATA RACE)' "$log" | head -n 150
	fi
	if grep -qE '^=== RUN' "$log"; then
		grep -E '^(ok|FAIL|---|\?|#|go:)' "$log" | grep -vE -- '^--- (PASS|SKIP)'
	else
		tail -n 100 "$log"
	fi
}

echo "parts: ${PARTS[*]}"
for part in "${PARTS[@]}"; do
	if ! declare -F "part_$part" >/dev/null; then
		echo "there is no part $part; parts: $ALL"
		exit 2
	fi
	echo "== $part"
	start=$SECONDS
	"part_$part" >"$LOGS/$part.log" 2>&1 </dev/null &
	JOB=$!
	wait "$JOB"
	status=$?
	JOB=""
	show "$LOGS/$part.log" $status
	if [ $status -ne 0 ]; then FAILED="$FAILED $part"; fi
	echo "== $part: $([ $status -eq 0 ] && echo passed || echo FAILED) in $((SECONDS - start)) s"
done

echo "== skipped"
cat "$LOGS"/*.log | grep -E '^ *--- SKIP' | sed 's/ (.*//; s/^ *//' | sort | uniq -c
grep -hoE 'SKIPPED PART:.*' "$LOGS"/*.log | sort | uniq -c
echo "$(cat "$LOGS"/*.log | grep -cE '^ *--- SKIP') tests skipped, $(cat "$LOGS"/*.log | grep -cE 'SKIPPED PART:') parts skipped"
echo "== late (bounds of time that this machine missed; revolve demo judges them)"
grep -hoE 'LATE: .*' "$LOGS"/*.log | cut -c1-200
if [ -n "$FAILED" ]; then
	echo "FAILED:$FAILED"
	exit 1
fi
echo "all passed in $SECONDS s"
