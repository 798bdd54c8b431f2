#!/bin/sh
# Runs every fuzz target for a while: scripts/fuzz.sh [TIME [PATTERN]], as in "scripts/fuzz.sh 5m DecodeOp".
# What fails is kept by go in testdata/fuzz of its package: commit it with the repair, and it runs with every go test.
set -eu
cd "$(dirname "$0")/.."
time=${1:-30s} pattern=${2:-.}
failed=
grep -rl --include='*_test.go' '^func Fuzz' internal | xargs -n 1 dirname | sort -u | while read -r dir; do
	grep -h '^func Fuzz' "$dir"/*_test.go | sed 's/^func \(Fuzz[A-Za-z0-9_]*\).*/\1/' | grep -e "$pattern" | while read -r target; do
		echo "== $dir $target"
		go test "./$dir" -run '^$' -fuzz "^$target\$" -fuzztime "$time" || exit 1
	done || exit 1
done || failed=yes
test -z "$failed"
