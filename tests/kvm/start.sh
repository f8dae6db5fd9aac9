# Process 1 of the host machine, in its root file system: network, KVM as an administrator would prepare it, and the server.
export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root PYTHONPATH=/sources/src:/sources:/data/python DM_DISABLE_UDEV=1
ip link set lo up
ip link set eth0 up
ip address add 10.0.2.15/24 dev eth0
ip route add default via 10.0.2.2
modprobe kvm_amd
for module in tun loop dm_mod dm_snapshot dm_unstripe nf_tables nf_conntrack nf_nat nft_chain_nat nft_ct nft_limit nft_masq nft_reject_inet; do modprobe "$module"; done
# udev, which is not here, makes group and mode.
groupadd --system kvm
chgrp kvm /dev/kvm && chmod 660 /dev/kvm
cd /data
python3 -m tests.kvm.inside
echo "the server in the host machine has ended: $?"
# The kernel panics, and the machine ends.
