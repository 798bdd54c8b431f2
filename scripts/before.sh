# shellcheck shell=bash
# Sourced by scripts that set the version before this one beside it.

# What the product is made of.
PRODUCT=(':(glob)cmd/**/*.go' ':(glob)internal/**/*.go' go.mod ':(exclude,glob)**/*_test.go')

# version_before PATH...: the commit from which people upgrade to this one. It is BEFORE; or the last
# release (a tag v...); or where this branch left the one that it is for (its upstream, or main); or
# what was there before the last change of PATH... HEAD~1 alone is often the same product.
version_before() {
	local at=${BEFORE:-}
	[ -n "$at" ] || at=$(git describe --tags --abbrev=0 --match 'v[0-9]*' HEAD^ 2>/dev/null || :)
	local branch
	for branch in '@{upstream}' origin/HEAD main; do
		[ -z "$at" ] || break
		if at=$(git merge-base HEAD "$branch" 2>/dev/null) && git diff --quiet "$at" HEAD -- "$@"; then
			at=""
		fi
	done
	if [ -z "$at" ]; then
		at=$(git log -1 --format=%H -- "$@" 2>/dev/null)
		at=${at:-none}^
	fi
	git rev-parse --quiet --verify "$at^{commit}"
}
