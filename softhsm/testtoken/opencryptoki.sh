#!/bin/sh
# Runs a command beside a throw-away token of opencryptoki, as root. Its paths and its
# shared memory are compiled in, so daemon, token and command live in namespaces of their
# own, which end with the command: nothing of the machine's own opencryptoki is touched.
#
#	opencryptoki.sh COMMAND ARGUMENT...
#
# The command finds label and User PIN of the token in CARDKMS_OCK_LABEL and _PIN.
set -eu
if [ "${CARDKMS_OCK_LABEL:-}" = "" ]; then
	export CARDKMS_OCK_LABEL=cardkms-ock CARDKMS_OCK_PIN=648219
	exec unshare --mount --ipc --pid --fork --mount-proc "$0" "$@"
fi
for dir in /var/lib/opencryptoki /run /dev/shm; do
	mount -t tmpfs none "$dir"
done
mkdir -p /var/log/opencryptoki
mount -t tmpfs none /var/log/opencryptoki
mkdir -p /var/lib/opencryptoki/swtok/TOK_OBJ /run/lock/opencryptoki/swtok
chgrp -R pkcs11 /var/lib/opencryptoki /run/lock/opencryptoki /var/log/opencryptoki
chmod -R 770 /var/lib/opencryptoki /run/lock/opencryptoki /var/log/opencryptoki
pkcsslotd
# The software token is in slot 3 of Debian's configuration. An initialised token wants
# both PINs changed before it works; 87654321 is what opencryptoki ships with.
echo "$CARDKMS_OCK_LABEL" | pkcsconf -I -c 3 -S 87654321 >/dev/null
pkcsconf -P -c 3 -S 87654321 -n 76543210
pkcsconf -u -c 3 -S 76543210 -n 11111111
pkcsconf -p -c 3 -U 11111111 -n "$CARDKMS_OCK_PIN"
"$@"
