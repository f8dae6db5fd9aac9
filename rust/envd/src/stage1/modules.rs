//! The modules that this kernel needs for its disk and network, and those that programs may load later.
//!
//! The initramfs contains all of them below [`TREE`], laid out for `modprobe`. The tree stays in memory when
//! the rest of the initramfs is freed, and is bound to its usual place in the new root: modules fit only
//! their own kernel, so no image has to contain them.

use std::fs;
use std::io;
use std::path::Path;

use sys::rustix::io::Errno;
use sys::rustix::mount::mount_bind;

use super::root::NEW_ROOT;
use super::{AtStep as _, Stage1Error};

/// One path on each line, in the order of loading.
const LIST: &str = "/modules.list";

/// Modules by kernel version, of which there is one.
pub const TREE: &str = "/lib/modules";

/// Binds the module tree into the new root. If that is not possible, the image runs without.
pub fn offer_to_new_root() {
    let Ok(versions) = fs::read_dir(TREE) else { return };
    for version in versions.flatten() {
        let place = Path::new(NEW_ROOT).join("lib/modules").join(version.file_name());
        if let Err(error) = bind(&version.path(), &place) {
            eprintln!("envd: stage1: offer the kernel's modules to the image: {error}");
        }
    }
}

/// Only through directories: a symbolic link of the image could lead back into the initramfs.
fn bind(tree: &Path, place: &Path) -> io::Result<()> {
    let mut above = Path::new(NEW_ROOT).to_owned();
    // On most images `/lib` is a link to `usr/lib`.
    let lib = if fs::symlink_metadata(above.join("lib")).is_ok_and(|m| m.is_symlink()) { "usr/lib" } else { "lib" };
    let version = place.file_name().ok_or(Errno::INVAL)?;
    for part in Path::new(lib).join("modules").join(version).components() {
        above.push(part);
        match fs::create_dir(&above) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ if fs::symlink_metadata(&above)?.is_dir() => {}
            _ => return Err(Errno::NOTDIR.into()),
        }
    }
    Ok(mount_bind(tree, &above)?)
}

/// Loads the modules in the list. Without a list nothing is loaded.
pub fn load_all() -> Result<(), Stage1Error> {
    let list = match fs::read_to_string(LIST) {
        Ok(list) => list,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error).at("read /modules.list"),
    };
    for path in list.lines().map(str::trim).filter(|l| !l.is_empty() && !l.starts_with('#')) {
        let path = Path::new("/").join(path);
        sys::module::load(&path).at(format!("load module {}", path.display()))?;
    }
    Ok(())
}
