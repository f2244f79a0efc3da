#!/bin/busybox sh
# PID 1 until the machine's file system is the root. When a step fails this ends, the kernel panics, and the caller sees the console.
set -e
/bin/busybox mkdir -p /dev /proc /sys /machine /overlay /root
/bin/busybox --install -s /bin
mount -t devtmpfs dev /dev
mount -t proc proc /proc
mount -t sysfs sys /sys
for module in /modules/*; do
    insmod "$module"
done

# 500 KiB is the most that a virtio channel of 9p carries at once. Loose caching holds because nobody writes through this mount.
mount -t 9p -o ro,trans=virtio,version=9p2000.L,msize=512000,cache=loose,access=any machine /machine
mount -t tmpfs -o mode=755 overlay /overlay
mkdir /overlay/upper /overlay/work
mount -t overlay -o lowerdir=/machine,upperdir=/overlay/upper,workdir=/overlay/work overlay /root

# An overlay cannot lie on an overlay, so what container engines put theirs on is a tmpfs.
for dir in run tmp var/lib/containerd; do
    mkdir -p "/root/$dir"
    mount -t tmpfs -o mode=755 tmpfs "/root/$dir"
done
chmod 1777 /root/tmp

mkdir -p /root/run/test-host/bin /root/run/test-host/machine /root/dev /root/proc /root/sys
mount --move /machine /root/run/test-host/machine
cp /bin/busybox /root/run/test-host/bin
cp /session.sh /job.sh /root/run/test-host
for dir in dev proc sys; do
    mount --move "/$dir" "/root/$dir"
done
exec switch_root /root /run/test-host/bin/busybox sh /run/test-host/session.sh
