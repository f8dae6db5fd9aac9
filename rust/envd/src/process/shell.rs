//! The command `$SHELL`: the shell of the image, whichever it has.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

/// The name that stands for it. No program is called so.
const NAME: &str = "$SHELL";
/// In order of preference; the last one is taken without a look.
const SHELLS: [&str; 2] = ["/bin/bash", "/bin/sh"];

/// The path of the shell when `cmd` is the name that stands for it, else `cmd` itself.
pub fn resolve(cmd: String) -> String {
    if cmd != NAME {
        return cmd;
    }
    let is_program = |path| fs::metadata(path).is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0);
    let shell = if is_program(SHELLS[0]) { SHELLS[0] } else { SHELLS[1] };
    shell.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_name_of_the_shell_stands_for_a_shell() {
        assert!(SHELLS.contains(&resolve("$SHELL".into()).as_str()));
        for other in ["", "SHELL", "$SHELL -c", "/bin/$SHELL", "/bin/sh"] {
            assert_eq!(resolve(other.into()), other);
        }
    }
}
