//! The modules that this kernel needs for its disk and network.

use std::fs;
use std::io;
use std::path::Path;

use super::{AtStep as _, Stage1Error};

/// One path a line, in the order of loading.
const LIST: &str = "/modules.list";

/// Loads what the list names. No list: nothing to load.
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
