#!/usr/bin/env bash
# Makes the Debian package and the tarball: ./scripts/package.sh DIR. Two runs on
# the same commit give the same bytes, whenever and wherever they are:
#
#   SOURCE_DATE_EPOCH  the time that everything in them has (the last commit's)
#   VERSION            0.0~git<time of the commit>.<commit> by default
#   COMMIT             what the program says of itself (the last one)
#   ARCH               as Debian calls it: amd64, arm64 (this machine's)
#   MAINTAINER         NAME <ADDRESS>, for whoever publishes the package
#
# Needs go, dpkg-deb and GNU tar. dpkg-deb packs with SOURCE_DATE_EPOCH and sorted
# names; one thread, because xz cuts blocks by the number of threads.
set -euo pipefail
umask 022
export LC_ALL=C TZ=UTC
[ $# -eq 1 ] || { echo "usage: $0 DIR" >&2; exit 2; }
mkdir -p "$1"
OUT=$(cd "$1" && pwd)
cd "$(dirname "$0")/.."

ARCH=${ARCH:-$(go env GOHOSTARCH)}
export SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct)}
MAINTAINER=${MAINTAINER:-Revolve <revolve@packages.invalid>}
COMMIT=${COMMIT:-$(git rev-parse HEAD)}
if [ -z "${VERSION:-}" ]; then
	VERSION=0.0~git$(date -u -d "@$SOURCE_DATE_EPOCH" +%Y%m%d.%H%M%S).${COMMIT:0:12}
	git diff --quiet HEAD || VERSION=$VERSION+changed
fi

WORK=$(mktemp -d)
trap 'rm -rf "$WORK"' EXIT
chmod 755 "$WORK"

# binary OUT ARCH: without symbol tables; a panic names functions and lines without them.
binary() {
	CGO_ENABLED=0 GOARCH=$2 go build -trimpath -buildvcs=false -ldflags="-s -X 'revolve/internal/cli.packaged=$VERSION $COMMIT'" -o "$1" ./cmd/revolve
}

# licenses: of what is linked into the binary, in the order of their names.
licenses() {
	echo "The Go standard library:"
	cat "$(go env GOROOT)/LICENSE"
	go version -m "$WORK/revolve" | awk '$1 == "dep" {print $2 "@" $3}' | sort | while read -r module; do
		printf '\n----------\n%s:\n' "$module"
		find "$(go mod download -json "$module" | sed -n 's/^\t"Dir": "\(.*\)",*$/\1/p')" -maxdepth 1 -regex '.*/\(LICEN[CS]E\|COPYING\).*' | sort | xargs -d '\n' cat
	done
}

# tree ROOT PREFIX: what both have.
tree() {
	local root=$1 p=$1/$2
	mkdir -p "$p/bin" "$p/lib/systemd/system" "$p/lib/ocf/resource.d/revolve" "$p/share/doc/revolve/examples" \
		"$p/share/bash-completion/completions" "$p/share/zsh/vendor-completions" "$p/share/fish/vendor_completions.d"
	install -m 755 "$WORK/revolve" "$p/bin/revolve"
	local unit
	for unit in examples/systemd/revolve.service examples/witness/revolve-witness.service; do
		sed -E "s|^ExecStart=[^ ]*/revolve |ExecStart=/$2/bin/revolve |" "$unit" >"$p/lib/systemd/system/${unit##*/}"
	done
	install -m 755 examples/pacemaker/revolve "$p/lib/ocf/resource.d/revolve/revolve"
	"$WORK/native" man --out "$p/share/man" >"$WORK/man"
	gzip -9n "$p"/share/man/man*/*
	"$WORK/native" completion bash >"$p/share/bash-completion/completions/revolve"
	"$WORK/native" completion zsh >"$p/share/zsh/vendor-completions/_revolve"
	"$WORK/native" completion fish >"$p/share/fish/vendor_completions.d/revolve.fish"
	cp -r docs examples README.md "$p/share/doc/revolve/"
	mkdir -p "$root/etc/default"
	install -m 644 packaging/default "$root/etc/default/revolve"
	chmod -R u=rwX,go=rX "$root"
}

deb() {
	local root=$WORK/deb size
	tree "$root" usr
	mkdir -p -m 755 "$root/etc/revolve" "$root/DEBIAN"
	mkdir -p "$root/etc/libvirt/hooks/qemu.d" # libvirt's own, if it is there: dpkg removes it with its last owner
	chmod 755 "$root"/etc/libvirt{,/hooks,/hooks/qemu.d}
	local doc=$root/usr/share/doc/revolve
	{ cat packaging/copyright; printf '\n'; } >"$doc/copyright"
	cp "$WORK/licenses" "$doc/linked-licenses"
	install -D -m 644 packaging/debian/lintian-overrides "$root/usr/share/lintian/overrides/revolve"
	printf 'revolve (%s) unstable; urgency=medium\n\n  * Made from the source of that time and commit.\n\n -- %s  %s\n' \
		"$VERSION" "$MAINTAINER" "$(date -u -R -d "@$SOURCE_DATE_EPOCH")" | gzip -9n >"$doc/changelog.gz"
	size=$(find "$root" -path "$root/DEBIAN" -prune -o -type f -printf '%s\n' -o -printf '1\n' | awk '{n += int(($1 + 1023) / 1024)} END {print n}')
	local file
	for file in control conffiles postinst prerm postrm; do
		sed -e "s|@VERSION@|$VERSION|; s|@ARCH@|$ARCH|; s|@MAINTAINER@|$MAINTAINER|; s|@SIZE@|$size|" "packaging/debian/$file" >"$root/DEBIAN/$file"
	done
	(cd "$root" && find . -path ./DEBIAN -prune -o -path ./etc -prune -o -type f -printf '%P\n' | sort | xargs -d '\n' md5sum >DEBIAN/md5sums)
	chmod 755 "$root"/DEBIAN/p*
	chmod 644 "$root/DEBIAN/control" "$root/DEBIAN/conffiles" "$root/DEBIAN/md5sums"
	dpkg-deb --root-owner-group --threads-max=1 -Zxz -z"${XZ_LEVEL:-6}" --build "$root" "$OUT/revolve_${VERSION}_$ARCH.deb" >"$WORK/dpkg-deb"
	echo "$OUT/revolve_${VERSION}_$ARCH.deb"
}

# Unpacked into /usr/local it is installed: tar -C / -xzf FILE.
tarball() {
	local root=$WORK/tar file=$OUT/revolve_${VERSION}_linux-$ARCH.tar.gz
	tree "$root" usr/local
	cp LICENSE "$WORK/licenses" "$root/usr/local/share/doc/revolve/"
	# Files only: the directories are the machine's, and who deletes what is listed must not meet /usr.
	(cd "$root" && find etc usr ! -type d | LC_ALL=C sort) >"$WORK/files"
	tar --no-recursion --format=gnu --owner=0 --group=0 --numeric-owner --mtime="@$SOURCE_DATE_EPOCH" -C "$root" -cf - -T "$WORK/files" | gzip -9n >"$file"
	echo "$file"
}

binary "$WORK/revolve" "$ARCH"
ln "$WORK/revolve" "$WORK/native"
[ "$ARCH" = "$(go env GOHOSTARCH)" ] || { rm "$WORK/native"; binary "$WORK/native" "$(go env GOHOSTARCH)"; }
licenses >"$WORK/licenses"
deb
tarball
