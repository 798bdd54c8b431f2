#!/usr/bin/env bash
# Tests the package on three bare Debian systems: installed as docs/install.md says,
# run, upgraded from the version before (before.sh; BEFORE=COMMIT), removed. Needs root; ./scripts/package-test.sh
# [RUN], where RUN chooses tests as in go test -run. The bare system is made once, in dist/base.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/before.sh
./scripts/test.sh package_tools # installs what is missing, or says so
SUITE=${SUITE:-bookworm}
export REVOLVE_BASE=$PWD/dist/base/$SUITE.tar
[ -e "$REVOLVE_BASE" ] || SUITE=$SUITE ./scripts/package-base.sh "$REVOLVE_BASE"

WORK=$(mktemp -d)
trap 'rm -rf "$WORK"' EXIT
mkdir "$WORK/source"
before=$(version_before "${PRODUCT[@]}" packaging scripts/package.sh examples/systemd) || {
	echo "the version before this one is not in this checkout; git fetch --unshallow, or BEFORE=COMMIT" >&2
	exit 1
}
echo "# upgraded from $(git log -1 --format='%h %s' "$before")"
git archive "$before" | tar -C "$WORK/source" -xf -
time=$(git log -1 --format=%ct "$before") now=$(git log -1 --format=%ct)
[ "$time" -lt "$now" ] || time=$((now - 1)) # commits of one second are told apart by their names alone
(cd "$WORK/source" && SOURCE_DATE_EPOCH=$time COMMIT=$before \
	VERSION=0.0~git$(date -u -d "@$time" +%Y%m%d.%H%M%S).${before:0:12} ./scripts/package.sh "$WORK/before")
./scripts/package.sh "$WORK/now"
REVOLVE_DEB=$(echo "$WORK"/now/*.deb) REVOLVE_DEB_BEFORE=$(echo "$WORK"/before/*.deb)
export REVOLVE_DEB REVOLVE_DEB_BEFORE
if command -v lintian >/dev/null; then
	lintian --fail-on error,warning "$REVOLVE_DEB"
fi # else it was said above
go test -count=1 -v -timeout 30m -run "${1:-.}" ./test/packages
