#!/bin/bash
# Tries the Debian package as an administrator would: lintian, the unit's sandbox, and an
# installation in a fresh Debian 12 root, where the packaged programs do the main job of the
# demonstration as the service's user, and a real systemd runs the unit. Needs root, debootstrap,
# lintian and the Debian mirror of this machine's own apt.
#
#   deploy/package/test.sh PACKAGE.deb DEMO     (make test-package)
set -euo pipefail
deb=$1 demo=$2
here=$(dirname "$(readlink -f "$0")")
root=$(mktemp -d) && chmod 755 "$root" # its users must get through
trap 'umount -q "$root/proc" || true; rm -rf "$root"' EXIT

echo '== lintian'
lintian --fail-on error,warning --info "$deb"

echo '== the sandbox of the unit, at most 2.0'
systemd-analyze security --offline=true --threshold=20 "$here/cardkmsd.service" | tail -1

echo '== a fresh Debian 12'
mirror=$(apt-get indextargets --format '$(SITE)' 'Created-By: Packages' | sort -u | grep -v security | head -1)
debootstrap --variant=minbase --include=adduser,softhsm2,libnss3,openssl,systemd bookworm "$root" "$mirror" >"$root.log" 2>&1 || { tail "$root.log"; exit 1; }
rm -f "$root.log"
mount -t proc proc "$root/proc"
cp "$deb" "$root/root/cardkms.deb"
in_root() { chroot "$root" "$@"; }

echo '== install'
in_root dpkg -i /root/cardkms.deb
in_root test -x /usr/bin/cardkmsd -a -f /lib/systemd/system/cardkmsd.service
[ "$(in_root stat -c '%U:%G %a' /etc/cardkms)" = 'root:cardkms 750' ]
in_root cardkmsd --help >/dev/null
in_root sh -c 'man=/usr/share/man/man1; test -f $man/cardkmsd-serve.1.gz -a -f $man/cardkms-update.1.gz'

echo '== the main job with the installed programs, as the user of the service'
install -m 755 "$demo" "$root/usr/bin/cardkms-demo"
in_root setpriv --reuid=cardkms --regid=cardkms --clear-groups env HOME=/tmp cardkms-demo | tail -3
rm "$root/usr/bin/cardkms-demo"

"$here/boot.sh" "$root" "$demo"
rm -r "$root/var/lib/cardkms" "$root/etc/cardkms/cardkms.yaml" "$root/etc/cardkms/pin"

echo '== upgrade and removal keep the evidence'
mkdir -p "$root/var/lib/cardkms" && echo kept >"$root/var/lib/cardkms/cardkms.db"
in_root dpkg -i /root/cardkms.deb
in_root dpkg --purge cardkms
[ "$(cat "$root/var/lib/cardkms/cardkms.db")" = kept ]
in_root sh -c '! test -e /usr/bin/cardkmsd'
echo 'the package installs, works, upgrades and goes'
