#!/bin/busybox sh
# PID 1 of the small initrd: loads the drivers of the buses that are there, finds root=, switches to it.
# udev and a general initramfs do the same, several seconds later under emulation.

export PATH=/bin
mount -t devtmpfs -o mode=0755 dev /dev
mount -t proc proc /proc
mount -t sysfs sys /sys

root= flags=rw init=/sbin/init fstype= wait=30
for word in $(cat /proc/cmdline); do
    case "$word" in
        root=*) root=${word#root=} ;;
        rootfstype=*) fstype="-t ${word#rootfstype=}" ;;
        rootwait=*) wait=${word#rootwait=} ;;
        init=*) init=${word#init=} ;;
        ro) flags=ro ;;
        rw) flags=rw ;;
    esac
done

# A device names its driver by its modalias; a SCSI disk appears only after its controller's driver, so this is
# called until the root is there.
load_drivers() {
    for alias in $(cat /sys/bus/*/devices/*/modalias 2>/dev/null | sort -u); do
        modprobe -q "$alias"
    done
}

# The GUID of a partition as its bytes lie in the GPT: the first three groups little-endian.
guid_bytes() {
    echo "$1" | tr A-F a-f |
        sed 's/^\(..\)\(..\)\(..\)\(..\)-\(..\)\(..\)-\(..\)\(..\)/\4\3\2\1\6\5\8\7/; s/-//g'
}

# Prints the device of the partition whose GUID is $1. An entry of the table has eight rows of 16 bytes, the
# second of which is the partition's GUID; the table starts at the third sector.
by_partuuid() {
    want=$(guid_bytes "$1")
    for disk in /sys/block/*; do
        [ "$(cat "$disk/size")" -gt 34 ] || continue
        row=$(dd if="/dev/${disk##*/}" bs=512 skip=2 count=32 2>/dev/null | xxd -p -c 16 |
            grep -n "^$want\$" | head -n 1 | cut -d: -f1)
        [ -n "$row" ] && [ $((row % 8)) -eq 2 ] || continue
        for number in "$disk"/*/partition; do
            if [ "$(cat "$number")" = $((row / 8 + 1)) ]; then
                number=${number%/partition}
                echo "/dev/${number##*/}"
                return
            fi
        done
    done
}

find_root() {
    case "$root" in
        PARTUUID=*) by_partuuid "${root#PARTUUID=}" ;;
        UUID=* | LABEL=*) findfs "$root" 2>/dev/null ;;
        *) [ -b "$root" ] && echo "$root" ;;
    esac
}

modprobe -q ext4
tries=0
while load_drivers; device=$(find_root); [ -z "$device" ]; do
    tries=$((tries + 1))
    if [ "$tries" -gt $((wait * 20)) ]; then
        echo "rackless initrd: no disk with root=$root after $wait s; these block devices are there:"
        cat /proc/partitions
        exit 1
    fi
    usleep 50000
done

# shellcheck disable=SC2086 # two words or none
if ! mount $fstype -o "$flags" "$device" /root; then
    echo "rackless initrd: can't mount $device (root=$root)"
    exit 1
fi
mount --move /dev /root/dev
mount --move /proc /root/proc
mount --move /sys /root/sys
exec switch_root /root "$init"
echo "rackless initrd: can't start $init"
exit 1
