#!/bin/busybox sh
# Process 1 of the host machine, from its initramfs: finds the disks, and starts Python on the sources in the third disk.
b=/bin/busybox
$b mount -t devtmpfs dev /dev
$b mount -t proc proc /proc
$b mount -t sysfs sys /sys
while read -r module; do $b insmod "$module"; done </modules.list
n=0
until [ -b /dev/vdc ] || [ $n -gt 100 ]; do $b sleep 0.1; n=$((n + 1)); done
$b mount -t ext4 -o rw,noatime /dev/vda /root
$b mkdir -p /root/data /root/sources
$b mount -t ext4 -o rw,noatime /dev/vdb /root/data
$b tar -x -f /dev/vdc -C /root/sources
$b mkdir -p /root/lib/modules
$b mount -o bind /root/data/modules /root/lib/modules
for name in dev proc sys; do $b mount -o move /$name /root/$name; done
$b mount -t tmpfs tmpfs /root/run
$b mount -t tmpfs tmpfs /root/tmp
$b mkdir -p /root/dev/pts /root/dev/shm
$b mount -t devpts -o ptmxmode=666 devpts /root/dev/pts
$b mount -t tmpfs tmpfs /root/dev/shm
$b mount -t cgroup2 cgroup2 /root/sys/fs/cgroup
exec $b switch_root /root /bin/sh /sources/tests/kvm/start.sh
