#!/bin/bash
# Has a real systemd run the packaged unit with its sandbox: boots it in a Debian root where the
# package is installed, in namespaces of its own, and updates one simulated card through the
# service that it started. Needs root and cgroup v2.
#
#   deploy/package/boot.sh ROOT DEMO     (test.sh does)
set -euo pipefail
root=$1 demo=$2 boot=
cleanup() {
	[ -z "$boot" ] || kill -9 "$boot" 2>/dev/null || true # and with it all that it started
	rm -f "$root/usr/bin/cardkms-demo"
}
trap cleanup EXIT
install -m 755 "$demo" "$root/usr/bin/cardkms-demo"
service() { chroot "$root" setpriv --reuid=cardkms --regid=cardkms --clear-groups env HOME=/tmp "$@"; }

echo '== a site under /var/lib/cardkms, its configuration and PIN under /etc/cardkms'
chroot "$root" install -d -m 700 -o cardkms -g cardkms /var/lib/cardkms
site=/var/lib/cardkms/site
service cardkmsd init $site >/dev/null
cat >"$root$site/sim.yaml" <<'END'
ceremony: Masters that everybody knows, for a simulated card
configuration: cardkms.yaml
present: [ada, bob]
together: true
keys:
  - issuer: demo
    key: isd
    kvn: "30"
    algorithm: aes-128
    master: {kcv: "gp-aes:504A77", components: [{custodian: alice, kcv: "gp-aes:C35280"}, {custodian: bert, kcv: "gp-aes:B9BC49"}]}
  - issuer: demo
    key: upd
    usage: card-update
    kvn: "5A"
    algorithm: aes-128
    master: {kcv: "gp-aes:504A77", components: [{custodian: alice, kcv: "gp-aes:C35280"}, {custodian: bert, kcv: "gp-aes:B9BC49"}]}
END
sed -n '/^profiles:/,$p' "$root$site/keys.yaml" >>"$root$site/sim.yaml"
for o in ada bob; do
	service cardkms ceremony approve $site/sim.yaml --officer $o --yes --key $site/officers/$o --passphrase-file $site/officers/passphrase >/dev/null 2>&1
done
one=000102030405060708090A0B0C0D0E0F two=40404040404040404040404040404040
printf '%s\n' $one $two $one $two | service cardkmsd ceremony run --yes $site/sim.yaml >/dev/null
sed -E -e "s#: (data|softhsm)\$#: $site/\1#" -e "s#: (tls|anchor|release)/#: $site/\1/#" \
	-e 's#^  pin: .*#  pin: file:/run/credentials/cardkmsd.service/pin#' "$root$site/cardkms.yaml" >"$root/etc/cardkms/cardkms.yaml"
chroot "$root" sh -c "chown root:cardkms /etc/cardkms/cardkms.yaml && chmod 640 /etc/cardkms/cardkms.yaml &&
	install -m 600 $site/pin /etc/cardkms/pin && rm $site/pin"

echo '== systemd starts the unit'
chroot "$root" systemctl -q enable cardkmsd
# It must not be in a chroot, where a unit gets no users of its own (PrivateUsers).
unshare --mount --pid --uts --ipc --net --fork bash -c '
	set -e
	mount --bind "$1" "$1" && cd "$1"
	mount -t proc proc proc && mount -t tmpfs tmpfs run && mount -t tmpfs tmpfs dev && mount -t tmpfs tmpfs sys
	for d in null zero full random urandom tty; do touch dev/$d && mount --bind /dev/$d dev/$d; done
	mkdir -p dev/shm dev/pts sys/fs/cgroup old && ln -s pts/ptmx dev/ptmx && mount -t cgroup2 none sys/fs/cgroup
	pivot_root . old && umount -l old && mount --make-rshared / # credentials of units arrive by propagation
	exec env -i container=other PATH=/usr/sbin:/usr/bin /lib/systemd/systemd' boot "$root" >"$root/boot.log" 2>&1 </dev/null &
until boot=$(pgrep -P $! -x systemd); do kill -0 $! || exit 1; sleep 0.1; done
inside() { nsenter --target "$boot" --mount --pid --net --root -- "$@"; }
until_serves() {
	for _ in $(seq 90); do
		inside cardkms health --as operator --tls $site/tls >/dev/null 2>&1 && return
		sleep 1
	done
	inside systemctl status cardkmsd --no-pager || true
	tail "$root/boot.log"
	exit 1
}
until_serves
[ "$(inside systemctl show cardkmsd -p User --value)" = cardkms ]
pid=$(inside systemctl show cardkmsd -p MainPID --value)
for line in 'NoNewPrivs:	1' 'Seccomp:	2' 'CapEff:	0000000000000000'; do inside grep "^$line" "/proc/$pid/status"; done

echo '== one card is updated through it'
known=404142434445464748494A4B4C4D4E4F # what both pairs of components make
inside setpriv --reuid=cardkms --regid=cardkms --clear-groups cardkms-demo card --master $known --update-master $known >"$root/card.log" 2>&1 </dev/null &
client() { inside env CARDKMS_TLS=$site/tls cardkms "$@"; }
head -c 20000 /dev/urandom >"$root$site/cos.bin"
client image sign --name cos-02 --content $site/cos.bin --release-key $site/release/release.key --class 10C3F0E8B06B1D5B7E9A7D2F7C5E1A4B \
	--from 0100000000000000 --to 0200000000000000 --security-counter 2 >"$root$site/cos.json"
client image register $site/cos.json --content $site/cos.bin >/dev/null
client update --card tcp:127.0.0.1:9000 --image cos-02 | tail -1

echo '== killed, systemd starts it again; stopped, it ends in order'
inside systemctl kill --signal KILL --kill-whom main cardkmsd
sleep 2 # so that what answers is the next process
until_serves
[ "$(inside systemctl show cardkmsd -p NRestarts --value)" = 1 ]
inside systemctl stop cardkmsd
[ "$(inside systemctl show cardkmsd -p Result -p ExecMainStatus --value | tr '\n' ' ')" = 'success 0 ' ]
