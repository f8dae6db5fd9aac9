"""Images, copy-on-write disks, warm snapshots."""
