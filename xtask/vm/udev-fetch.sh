#!/bin/bash
# udev-fetch.sh DIR: unpacks this machine's Debian's udev, and the libraries it needs, into DIR; nothing is installed.
set -euo pipefail
mkdir -p "$1"
cd "$1"
apt-get -qq download udev systemd libudev1 libkmod2 libblkid1 libacl1 libselinux1 libcap2 libmount1 libseccomp2 libcrypt1 \
    libapparmor1 libaudit1 libcryptsetup12 libfdisk1 libip4tc2 liblz4-1 liblzma5 libpam0g libssl3 libzstd1 libpcre2-8-0 \
    libcap-ng0 libdevmapper1.02.1 libjson-c5 libuuid1 libargon2-1 libgcrypt20 libgpg-error0 2> /dev/null ||
    apt-get -qq download udev systemd libudev1 libkmod2 libblkid1 libacl1 libselinux1 libcap2 libmount1 libseccomp2
for deb in ./*.deb; do dpkg -x "$deb" .; done
rm -f ./*.deb
# As on a machine of today, whose /lib is a link to /usr/lib.
for folder in bin sbin lib lib64; do
    [ -d "$folder" ] || continue
    mkdir -p "usr/$folder"
    cp -a "$folder/." "usr/$folder/"
    rm -rf "$folder"
done
touch .done
