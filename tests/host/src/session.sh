# PID 1 from the switch of the root on: brings up what a command may expect of a machine, runs the job, and reports on the control port.
set -e
/run/test-host/bin/busybox --install -s /run/test-host/bin
export PATH=/run/test-host/bin

# $1: the name of a virtio port; prints its device.
port() {
    for dir in /sys/class/virtio-ports/*; do
        if [ "$(cat "$dir/name")" = "$1" ]; then
            echo "/dev/${dir##*/}"
        fi
    done
}

# $1: what the caller is told. The caller then stops the machine.
fail() {
    echo "failed $1" >&3
    sleep 60
}

mount_virtual_file_systems() {
    mkdir -p /dev/pts /dev/shm
    mount -t devpts -o gid=5,mode=620,ptmxmode=666 devpts /dev/pts
    mount -t tmpfs -o mode=1777 shm /dev/shm
    ln -sf /proc/self/fd /dev/fd
    for stream in stdin:0 stdout:1 stderr:2; do
        ln -sf "/proc/self/fd/${stream#*:}" "/dev/${stream%:*}"
    done
    mount -t cgroup2 cgroup2 /sys/fs/cgroup
    for controller in $(cat /sys/fs/cgroup/cgroup.controllers); do
        echo "+$controller" >/sys/fs/cgroup/cgroup.subtree_control
    done
}

# $1: the modules of the running kernel. They load on demand; some only when their device is opened, which udev would have made.
offer_modules() {
    mkdir -p "/lib/modules/$(uname -r)"
    mount --bind "/run/test-host/machine$1" "/lib/modules/$(uname -r)"
    mkdir -p /dev/net
    while read -r device mode minor; do
        [ -e "/dev/$device" ] || mknod -m "$mode" "/dev/$device" c 10 "$minor"
    done <<END
net/tun 666 200
fuse 666 229
loop-control 660 237
vhost-net 660 238
vhost-vsock 660 241
END
}

# An ordinary user who may use KVM.
add_tester() {
    grep -q '^kvm:' /etc/group || echo 'kvm:x:4711:' >>/etc/group
    kvm=$(awk -F: '$1 == "kvm" { print $3 }' /etc/group)
    sed -i '/^tester:/d' /etc/passwd
    echo "tester:x:4711:$kvm::/home/tester:/bin/sh" >>/etc/passwd
    mkdir -p /home/tester /run/user/4711
    chown "4711:$kvm" /home/tester /run/user/4711
    chmod 700 /run/user/4711
    for device in kvm vhost-net vhost-vsock; do
        chown "0:$kvm" "/dev/$device"
        chmod 660 "/dev/$device"
    done
}

# $1: the number of the share, $2: its directory, the same as on the machine.
share() {
    mkdir -p "$2"
    mount -t 9p -o "trans=virtio,version=9p2000.L,msize=512000,cache=mmap,access=any" "share$1" "$2" ||
        fail "the share $2 cannot be mounted"
}

# $1: a file or directory.
copy_to_tmpfs() {
    copy=/run/test-host/copies$1
    mkdir -p "${copy%/*}" "${1%/*}/"
    cp -a "/run/test-host/machine$1" "$copy" || fail "$1 cannot be copied to tmpfs"
    if [ -d "$copy" ]; then
        mkdir -p "$1"
    elif [ ! -e "$1" ]; then
        touch "$1"
    fi
    mount --bind "$copy" "$1"
}

# Until the machine is off: see hold_vm in main.rs.
hold_vm() {
    "$TEST_HOST" hold-vm >/run/test-host/held 3>&- </dev/null &
    for attempt in $(seq 100); do
        if [ -s /run/test-host/held ]; then
            return
        fi
        sleep 0.1
    done
    fail "no VM can be made on /dev/kvm"
}

# The size is set while the terminal is open: opening it takes the size that QEMU knows, which is none.
run_in_terminal() {
    (stty $TERMINAL && run_command) </dev/hvc0 >/dev/hvc0 2>&1 3>&-
}

# Pipes, because a port can be opened only once and a command may open /dev/stdout.
run_with_streams() {
    mkfifo /run/test-host/stdout /run/test-host/stderr
    cat /run/test-host/stdout >"$(port stdout)" 3>&- &
    relays=$!
    cat /run/test-host/stderr >"$(port stderr)" 3>&- &
    relays="$relays $!"
    (run_command </dev/null >/run/test-host/stdout 2>/run/test-host/stderr 3>&-)
    status=$?
    # A process left in the background may hold the pipes open for ever.
    (sleep 2 && kill $relays) 2>/dev/null 3>&- &
    wait $relays
    return $status
}

exec 3>"$(port control)"
hostname test-host
ip link set lo up
mount_virtual_file_systems
. /run/test-host/job.sh
offer_modules "$MODULES"
add_tester
hold_vm
prepare_job
echo started >&3
set +e
if [ "$TERMINAL" ]; then
    run_in_terminal
else
    run_with_streams
fi
status=$?
sync
echo "exit $status" >&3
poweroff -f
