//! The command `$SHELL`: the shell of the image or the login shell of the user.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

/// The special command name. No program has this name.
const NAME: &str = "$SHELL";
/// In order of preference; the last one is not checked.
const SHELLS: [&str; 2] = ["/bin/bash", "/bin/sh"];
/// Login shells of service accounts, which exit immediately.
const NO_SHELLS: [&str; 2] = ["nologin", "false"];

/// Returns the path of the shell if `cmd` is the special name, otherwise `cmd`.
///
/// With arguments it is the shell of the image, which supports `-c`. Without arguments it is interactive: the
/// login shell of the user, if valid.
pub fn resolve(cmd: String, args: &[String], login: &str) -> String {
    if cmd != NAME {
        return cmd;
    }
    let is_login = args.is_empty() && is_program(login) && !is_no_shell(login);
    let image_shell = if is_program(SHELLS[0]) { SHELLS[0] } else { SHELLS[1] };
    let shell = if is_login { login } else { image_shell };
    shell.to_owned()
}

fn is_program(path: &str) -> bool {
    fs::metadata(path).is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0)
}

fn is_no_shell(path: &str) -> bool {
    Path::new(path).file_name().is_some_and(|name| NO_SHELLS.iter().any(|no| name == *no))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_name_of_the_shell_stands_for_a_shell() {
        assert!(SHELLS.contains(&resolve("$SHELL".into(), &[], "").as_str()));
        for other in ["", "SHELL", "$SHELL -c", "/bin/$SHELL", "/bin/sh"] {
            assert_eq!(resolve(other.into(), &[], "/bin/sh"), other);
        }
    }

    #[test]
    fn without_arguments_it_is_the_login_shell_of_the_user_if_that_is_one() {
        assert_eq!(resolve(NAME.into(), &[], "/bin/sh"), "/bin/sh");
        assert_eq!(resolve(NAME.into(), &["-c".into()], "/bin/cat"), resolve(NAME.into(), &[], ""));
        for none in ["", "/", "/no/such/shell", "/usr/sbin/nologin", "/bin/false"] {
            assert!(SHELLS.contains(&resolve(NAME.into(), &[], none).as_str()), "{none}");
        }
    }
}
