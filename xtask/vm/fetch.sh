#!/bin/bash
# fetch.sh DIR KERNEL...
#
# Downloads Debian kernels with apt and unpacks them under DIR/ABI; nothing is installed, and the
# machine's own apt sources and lists are not touched.
#   KERNEL: SUITE (cloud flavor) or SUITE/full; SUITE: bookworm, bookworm-backports, trixie, sid, ...
# Prints one line a kernel: KERNEL ABI.
set -euo pipefail
[ $# -ge 2 ] || { sed -n 2,7p "$0" >&2; exit 2; }
mkdir -p "$1"
dir=$(cd "$1" && pwd)
shift
apt=$dir/.apt
mkdir -p "$apt"/{lists/partial,cache/archives/partial,etc,state,deb}
: > "$apt/state/status"

# One at a time: two runs would unpack over each other.
exec 9> "$dir/.lock"
flock 9

# The mirror this machine is set up to use.
mirror=$(apt-get indextargets --format '$(ORIGIN)|$(SUITE)|$(REPO_URI)' 'Created-By: Packages' |
    awk -F'|' '$1 == "Debian" && $3 !~ /security/ && !found { print $3; found = 1 }')
[ -n "$mirror" ] || {
    echo "fetch: no Debian mirror among the apt sources: run apt-get update" >&2
    exit 1
}
suites=$(for kernel in "$@"; do echo "${kernel%/*}"; done | sort -u | tr '\n' ' ')
rm -f "$apt"/etc/*
cat > "$apt/etc/kernels.sources" <<END
Types: deb
URIs: $mirror
Suites: $suites
Components: main
Architectures: amd64
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg
END
cat > "$apt/apt.conf" <<END
Dir::State "$apt/state";
Dir::State::lists "$apt/lists";
Dir::State::status "$apt/state/status";
Dir::Cache "$apt/cache";
Dir::Etc::sourcelist "/dev/null";
Dir::Etc::sourceparts "$apt/etc";
APT::Sandbox::User "root";
Acquire::Languages "none";
Acquire::IndexTargets::deb::DEP-11::DefaultEnabled "false";
END
export APT_CONFIG=$apt/apt.conf
apt-get -qq update >&2

for kernel in "$@"; do
    suite=${kernel%/*}
    meta=linux-image-cloud-amd64
    case $kernel in */full) meta=linux-image-amd64 ;; esac
    version=$(apt-cache madison $meta |
        awk -F'|' -v s="/$suite/" \
            '{ gsub(/ /, "", $2) } index($3, "/debian " substr(s, 2)) && !found { print $2; found = 1 }')
    [ -n "$version" ] || { echo "fetch: $suite has no $meta" >&2; exit 1; }
    abi=$(apt-cache show "$meta=$version" | sed -n 's/^Depends:.*linux-image-\([0-9][^ ,]*\).*/\1/p' | head -1)
    if [ ! -e "$dir/$abi/.done" ]; then
        rm -rf "${dir:?}/$abi"
        mkdir -p "$dir/$abi"
        cd "$apt/deb"
        rm -f ./*.deb
        if apt-cache show "linux-binary-$abi" > /dev/null 2>&1; then
            # Split packaging, from 7.x on.
            packages="linux-binary-$abi linux-modules-$abi linux-base-$abi"
        elif apt-cache show "linux-image-$abi-unsigned" > /dev/null 2>&1; then
            packages="linux-image-$abi-unsigned"
        else
            packages="linux-image-$abi"
        fi
        # shellcheck disable=SC2086 # a list
        apt-get -qq download $packages >&2
        for deb in ./*.deb; do dpkg -x "$deb" "$dir/$abi"; done
        rm -f ./*.deb
        touch "$dir/$abi/.done"
    fi
    echo "$kernel $abi"
done
