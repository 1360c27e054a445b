#!/bin/bash
# run.sh KERNEL_DIR SHARE COMMAND...
#
# Boots a Debian kernel unpacked by fetch.sh under qemu, without network, and runs a command in it.
#   KERNEL_DIR  DIR/ABI of fetch.sh
#   SHARE       host folder that is copied into the guest as /mnt/share ('-' for none)
#   COMMAND     run as root by busybox sh, in /mnt/share; files in /mnt/out come back to $VM_OUT
# Exit status: the command's; 124 when time ran out; 125 when the guest did not come up.
# Environment: VM_ACCEL=tcg VM_CPU VM_TIMEOUT=120 VM_SMP=1 VM_MEM=512 VM_MODULES="fuse cuse"
#   VM_ROOT VM_OUT VM_QEMU=qemu-system-x86_64 VM_APPEND VM_QEMU_EXTRA VM_VERBOSE
#   VM_LOG  a file that gets what the command prints while it runs
# With VM_ROOT, a folder or '-', the command has this machine's files, read-only under a layer of
# memory, with the files of the folder among them: its programs and compilers, by bash, in $PWD. The
# kernel loads its modules itself then. It needs a SUITE/full kernel, which has 9p.
set -u
[ $# -ge 3 ] || { sed -n 2,12p "$0" >&2; exit 2; }
kernel=$1 share=$2
shift 2
command="$*"
abi=$(basename "$kernel")
accel=${VM_ACCEL:-tcg}
# Without cx16: qemu 7.2 emulates cmpxchg16b wrongly now and then, and the guest crashes.
case $accel in kvm*) cpu=${VM_CPU:-host} ;; *) cpu=${VM_CPU:-max,-cx16} ;; esac
modules=${VM_MODULES-fuse cuse}
[ -z "${VM_ROOT:-}" ] || modules="virtio_pci 9p 9pnet_virtio overlay $modules"
work=$(mktemp -d "${TMPDIR:-/tmp}/vm.XXXXXX") || exit 125
guard=
trap '[ -z "$guard" ] || kill $guard 2> /dev/null; rm -rf "$work"' EXIT
fail() { echo "vm: $*" >&2; exit 125; }

first() { for path in "$@"; do [ -e "$path" ] && { echo "$path"; return; }; done; }
image=$(first "$kernel"/boot/vmlinuz-* "$kernel"/usr/lib/modules/*/vmlinuz "$kernel"/usr/lib/linux/*/vmlinuz)
[ -n "$image" ] || fail "no kernel image under $kernel: fetch it again"
tree=$(first "$kernel"/lib/modules/*/kernel "$kernel"/usr/lib/modules/*/kernel)
base=$(dirname "${tree:-/}")

root=$work/root
mkdir -p "$root"/{bin,dev,proc,sys,tmp,run,mnt/share,mnt/out,mod,etc}
cp "$(command -v busybox)" "$root/bin/busybox" || fail "no busybox: install busybox-static"

# Modules in the order of their dependencies.
: > "$work/modules"
if [ -n "$tree" ] && [ -n "$modules" ]; then
    [ -f "$base/modules.dep" ] || depmod -b "${base%/lib/modules/*}" "$(basename "$base")" 2> /dev/null
    for module in $modules; do
        grep -qE "/$module\.ko$" "$base/modules.builtin" 2> /dev/null && continue
        line=$(grep -E "(^|/)$module\.ko[^ ]*:" "$base/modules.dep" 2> /dev/null | head -1)
        [ -n "$line" ] || fail "$abi has no module $module"
        for file in $(printf '%s\n' ${line#*:} | tac) "${line%%:*}"; do
            grep -qxF "$file" "$work/modules" || echo "$file" >> "$work/modules"
        done
    done
fi
number=0
while read -r file; do
    number=$((number + 1))
    plain=${file%.xz}
    out=$(printf '%s/mod/%02d-%s' "$root" $number "$(basename "${plain%.zst}")")
    case $file in
        *.xz) xz -dc "$base/$file" > "$out" ;;
        *.zst) zstd -qdc "$base/$file" > "$out" ;;
        *) cp "$base/$file" "$out" ;;
    esac || fail "cannot unpack $file"
done < "$work/modules"

[ "$share" = - ] || cp -a "$share"/. "$root/mnt/share/" || fail "cannot copy $share"
printf '%s\n' "$command" > "$root/command"
machine=()
if [ -n "${VM_ROOT:-}" ]; then
    printf '%s\n' "$PWD" > "$root/whole"
    share_of() { # TAG FOLDER
        machine+=(-virtfs "local,path=$2,mount_tag=$1,security_model=none,readonly=on,multidevs=remap")
    }
    share_of machine /
    share_of modules "$(realpath "$base/..")"
    [ "$VM_ROOT" = - ] || share_of extra "$VM_ROOT"
fi
cat > "$root/init" <<'INIT'
#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/bin:/sbin:/usr/bin:/usr/sbin:/mnt/share HOME=/tmp
mount -t devtmpfs dev /dev
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t tmpfs tmp /tmp
mount -t tmpfs run /run
mkdir -p /dev/shm /dev/pts
mount -t tmpfs shm /dev/shm
mount -t devpts pts /dev/pts
[ -e /etc/passwd ] || printf 'root:x:0:0::/:/bin/sh\nnobody:x:65534:65534::/:/bin/sh\n' > /etc/passwd
[ -e /etc/group ] || printf 'root:x:0:\nnogroup:x:65534:\n' > /etc/group
for module in /mod/*.ko; do
    [ -e "$module" ] && { insmod "$module" || echo "insmod $module failed" > /dev/ttyS0; }
done
ip link set lo up
[ -e /whole ] && {
    # The files of the machine, under a layer of memory, become the root: for the kernel's own
    # helpers (modprobe) as well, and not by chroot, in which nobody may make a user namespace.
    at() { mkdir -p "/lower/$1" && mount -t 9p -o trans=virtio,ro,cache=loose,msize=262144 "$1" "/lower/$1"; }
    at machine && at modules || echo "no files of the machine" > /dev/ttyS0
    lower=/lower/machine
    at extra 2> /dev/null && lower=/lower/extra:$lower
    mkdir -p /layer /new
    mount -t tmpfs -o size=60% layer /layer
    mkdir -p /layer/up /layer/work
    mount -t overlay -o "lowerdir=$lower,upperdir=/layer/up,workdir=/layer/work" root /new
    for folder in dev proc sys; do mount --move /$folder /new/$folder; done
    for folder in tmp run; do mount -t tmpfs -o mode=1777 $folder /new/$folder; done
    mkdir -p /new/lib/modules /new/mnt/out
    mount --bind /lower/modules /new/lib/modules
    mount -t cgroup2 cgroup /new/sys/fs/cgroup
    echo "+memory +pids" > /new/sys/fs/cgroup/cgroup.subtree_control
    cp /command /whole /new/run
    sed '1,/^# The command/d' /init > /new/run/rest
    # Nothing of the machine's own surroundings is in force here.
    exec env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root \
        switch_root /new /bin/bash /run/rest
}
# The command, and how it ended.
exec > /dev/ttyS1 2>&1
stty -F /dev/ttyS1 raw -echo
read -r up _ < /proc/uptime
echo "__UP__ $up"
if [ -e /run/whole ]; then
    # As a machine with systemd has them.
    ulimit -Hn 524288 && ulimit -Sn 1024
    cd "$(cat /run/whole)" && bash /run/command < /dev/null
else
    cd /mnt/share
    sh /command < /dev/null
fi
status=$?
if [ -n "$(ls -A /mnt/out)" ]; then
    stty -F /dev/ttyS2 raw
    tar c -C /mnt/out . | gzip -1 > /dev/ttyS2
fi
echo "__STATUS__ $status"
sync
sleep 0.2
# Whatever is left of the command's processes ends with the machine, and so do its files: no program can be started from them.
echo o > /proc/sysrq-trigger
read -r -t 60 _ < /dev/ttyS0
INIT
chmod +x "$root/init"
(cd "$root" && find . | cpio -o -H newc --quiet) > "$work/initrd" || fail "cannot pack the guest"

log=${VM_LOG:-$work/out}
for port in "$work/console" "$work/tar" "$log"; do : > "$port" || fail "cannot write $port"; done
start=$(date +%s%N)
# shellcheck disable=SC2086 # lists
timeout --kill-after=5 "${VM_TIMEOUT:-120}" ${VM_QEMU:-qemu-system-x86_64} \
    -machine pc -accel "$accel" -cpu "$cpu" -smp "${VM_SMP:-1}" -m "${VM_MEM:-512}" \
    -nodefaults -no-user-config -display none -no-reboot -nic none \
    -chardev file,id=c0,path="$work/console" -serial chardev:c0 \
    -chardev file,id=c1,path="$log" -serial chardev:c1 \
    -chardev file,id=c2,path="$work/tar" -serial chardev:c2 \
    -kernel "$image" -initrd "$work/initrd" \
    -append "console=ttyS0 quiet panic=-1 reboot=t mitigations=off nokaslr random.trust_cpu=on \
no_timer_check rcupdate.rcu_expedited=1 8250.nr_uarts=4 ${VM_APPEND:-}" \
 "${machine[@]}" ${VM_QEMU_EXTRA:-} > "$work/qemu" 2>&1 < /dev/null &
guard=$!
# The emulator's first thread has the guest's timers and files, and little to do. Where it waits long for a processor of this
# machine, the guest stands still for up to a minute: a timer that comes too late is lost.
for _ in $(seq 50); do
    # No line ends there, so that `read` fails though it has read. The other threads, which compute, are as all are.
    emulator=
    { read -r emulator _ < "/proc/$guard/task/$guard/children"; } 2> /dev/null
    [ -n "$emulator" ] && chrt --rr --reset-on-fork --pid 1 "$emulator" 2> /dev/null && break
    sleep 0.1
done
wait $guard
qemu=$?
guard=
wall=$((($(date +%s%N) - start) / 100000000))

tr -d '\r' < "$log" > "$work/text"
status=$(sed -n 's/^__STATUS__ \([0-9]*\)$/\1/p' "$work/text" | tail -1)
up=$(sed -n 's/^__UP__ //p' "$work/text")
grep -v -E '^__(UP|STATUS)__' "$work/text"
if [ -n "${VM_OUT:-}" ] && [ -s "$work/tar" ]; then
    mkdir -p "$VM_OUT" && tar xz -C "$VM_OUT" < "$work/tar" || fail "what the command left cannot be unpacked in $VM_OUT"
fi
if [ -n "${VM_VERBOSE:-}" ] || [ -z "$status" ]; then
    { echo "vm: qemu ended with $qemu"; tail -n 30 "$work/qemu"; tail -n 40 "$work/console"; } >&2
fi
echo "vm: $abi, $accel: shell after ${up:-?} s, all in $((wall / 10)).$((wall % 10)) s" >&2
[ -n "$status" ] && exit "$status"
case $qemu in 124 | 137) exit 124 ;; esac
exit 125
