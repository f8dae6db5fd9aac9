//! Leaving the initramfs for the root disk.

use std::convert::Infallible;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;

use sys::rustix::mount::mount_move;
use sys::rustix::process::{chdir, chroot};

use super::root::{AGENT_PATH, NEW_ROOT};
use super::{AtStep as _, Stage1Error};
use crate::PID1_ARGUMENT;

/// Moves the mounts, frees the initramfs, makes the disk the root and executes the agent there.
pub fn into_new_root() -> Result<Infallible, Stage1Error> {
    for view in ["/proc", "/sys", "/dev"] {
        let to = format!("{NEW_ROOT}{view}");
        fs::create_dir_all(&to).at(format!("make {to}"))?;
        mount_move(view, &to).at(format!("move {view} to the new root"))?;
    }
    free_initramfs();
    chdir(NEW_ROOT).at("enter the new root")?;
    mount_move(".", "/").at("move the new root")?;
    chroot(".").at("change the root")?;
    chdir("/").at("enter the root")?;
    let error = Command::new(AGENT_PATH).arg(PID1_ARGUMENT).env_clear().exec();
    Err(error).at(format!("start {AGENT_PATH}"))
}

/// Its files take memory. What cannot be removed only wastes memory.
fn free_initramfs() {
    let Ok(root) = fs::symlink_metadata("/") else { return };
    remove_below(Path::new("/"), root.dev());
    // What is bound into the new root remains: see `modules`.
}

/// Removes everything on this file system, and nothing that is mounted on it.
fn remove_below(directory: &Path, device: u64) {
    let Ok(entries) = fs::read_dir(directory) else { return };
    for entry in entries.flatten() {
        let path = entry.path();
        if path == Path::new(super::modules::TREE) {
            continue;
        }
        match fs::symlink_metadata(&path) {
            Ok(about) if about.dev() != device => {}
            Ok(about) if about.is_dir() => {
                remove_below(&path, device);
                let _ = fs::remove_dir(&path);
            }
            _ => drop(fs::remove_file(&path)),
        }
    }
}
