"""Tests on a host with working KVM: a virtual machine under emulation in which /dev/kvm works. docs/design/vm-kvm.md."""
