#!/bin/bash
# udev.sh, in a guest: udev/60-nlmmap.rules with the real udev. $NLMMAP is the program.
set -eu
echo "## kernel $(uname -r)"
groupadd --system nlmmap
mkdir -p /etc/udev/rules.d /run/udev
cp udev/60-nlmmap.rules /etc/udev/rules.d/
daemon=/lib/systemd/systemd-udevd
[ -x "$daemon" ] || { echo "no udev here" >&2; exit 1; }
"$daemon" --daemon --resolve-names=early
udevadm --version
udevadm control --ping
"$NLMMAP" serve --node cuse --name nlmmap --log warn &
serve=$!
for _ in $(seq 300); do [ -c /dev/nlmmap ] && break; sleep 0.1; done
udevadm settle --timeout=60
bad=0
check() { # WHAT WANTED SEEN
    if [ "$2" = "$3" ]; then echo "$1: $3"; else echo "$1: $3, and not $2" >&2; bad=1; fi
}
check "mode, user, group" "660 root nlmmap" "$(stat -c '%a %U %G' /dev/nlmmap)"
check "the systemd tag" yes "$(udevadm info --query=property --name=/dev/nlmmap | grep -q '^TAGS=.*:systemd:' && echo yes || echo no)"
# A member of the group, and one who is none.
refused() { setpriv --reuid=65534 --regid="$1" --clear-groups python3 -c 'import os; os.open("/dev/nlmmap", os.O_RDWR)' 2> /dev/null && echo no || echo yes; }
check "refused to others" yes "$(refused 65534)"
check "refused to its group" no "$(refused "$(getent group nlmmap | cut -d: -f3)")"
kill $serve
wait $serve
udevadm settle --timeout=60
check "the node afterwards" gone "$([ -e /dev/nlmmap ] && echo there || echo gone)"
read -r up _ < /proc/uptime
echo "## $([ $bad = 0 ] && echo passed || echo failed) ${up%.*} rule"
exit $bad
