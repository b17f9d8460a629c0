#!/bin/bash
# Builds the container image and does the main job of the demonstration in it, as its user.
# Where no registry of images can be reached the two base images are stand-ins: a fresh Debian
# 12 root, and the same with a C compiler and this machine's Go. Needs root, buildah,
# debootstrap, the Debian mirror of this machine's own apt, and its Go module cache.
#
#   deploy/package/image.sh DEMO     (make test-image)
set -euo pipefail
demo=$(readlink -f "$1")
cd "$(dirname "$(readlink -f "$0")")/../.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
printf '[storage]\ndriver = "vfs"\ngraphroot = "%s"\nrunroot = "%s"\n' "$work/graph" "$work/run" >"$work/storage.conf"
export CONTAINERS_STORAGE_CONF=$work/storage.conf BUILDAH_ISOLATION=chroot

echo '== the base images'
mirror=$(apt-get indextargets --format '$(SITE)' 'Created-By: Packages' | sort -u | grep -v security | head -1)
debootstrap --variant=minbase --include=gcc,libc6-dev,softhsm2,libnss3 bookworm "$work/root" "$mirror" >"$work/log" 2>&1 || { tail "$work/log"; exit 1; }
base=$(buildah from scratch)
buildah copy -q "$base" "$work/root" / >/dev/null
buildah commit -q "$base" docker.io/library/debian:bookworm-slim >/dev/null
buildah copy -q "$base" "$(go env GOROOT)" /usr/local/go >/dev/null
buildah config --env PATH=/usr/local/go/bin:/usr/bin:/bin --env GOPATH=/go --env GOTOOLCHAIN=local --env GOPROXY=file:///modules "$base"
buildah commit -q "$base" docker.io/library/golang:1.26-bookworm >/dev/null

echo '== build'
go mod download
buildah build -q --pull-never --volume "$(go env GOMODCACHE)/cache/download:/modules:ro" \
	--tag cardkms --file deploy/Containerfile . >/dev/null

echo '== what the image says of itself'
image=$(buildah inspect --type image --format '{{.OCIv1.Config.User}} {{.OCIv1.Config.Entrypoint}} {{.OCIv1.Config.Cmd}}' cardkms)
echo "$image"
[ "$image" = '10001:10001 [/usr/bin/cardkmsd] [serve --config /etc/cardkms/cardkms.yaml]' ]

echo '== the main job in it, as its user'
run=$(buildah from --pull-never cardkms)
[ "$(buildah run "$run" -- id -u)" = 10001 ]
buildah run "$run" -- cardkmsd --help >/dev/null
buildah copy -q --chmod 755 "$run" "$demo" /usr/bin/cardkms-demo >/dev/null
buildah run --env HOME=/tmp "$run" -- cardkms-demo | tail -3
echo 'the image builds and works'
