//! Environment variables of every process, before those of the sandbox and of the request.
//!
//! In order of precedence, lowest first: the agent's defaults, `/etc/default/locale` and `/etc/environment`
//! of the image (as a login session reads them), the user's (`HOME`, `USER`, `LOGNAME`), the sandbox's
//! (`/init`), the request's.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read as _;
use std::sync::{Arc, Mutex};

use crate::agent::{Agent, Mode, lock};
use crate::regular_file::{Version, open_regular, version_of};
use crate::users::User;

/// Default of `PATH`.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Default locale, so that programs use UTF-8. glibc (since 2.35) and musl have it built in.
const DEFAULT_LANG: &str = "C.UTF-8";
/// Files of the image with environment variables; later ones take precedence.
const IMAGE_FILES: [&str; 2] = ["/etc/default/locale", "/etc/environment"];
/// Limit for one file: root in the guest can write anything to it.
const MAX_FILE_BYTES: u64 = 64 * 1024;
/// Limit for the variables of one file.
const MAX_VARIABLES: usize = 256;

type Variables = BTreeMap<String, String>;

/// The variables of the image's files, parsed again only when a file has changed.
#[derive(Debug, Default)]
pub struct ImageVariables {
    /// The versions of the files at the last reading, and their variables.
    cached: Mutex<([Option<Version>; 2], Arc<Variables>)>,
}

impl ImageVariables {
    fn read(&self) -> Arc<Variables> {
        let files = IMAGE_FILES.map(open);
        let versions = [0, 1].map(|i: usize| files[i].as_ref().map(|(_, version)| *version));
        let mut cached = lock(&self.cached);
        if cached.0 != versions {
            let mut all = Variables::new();
            for (file, _) in files.into_iter().flatten() {
                let mut bytes = Vec::new();
                // A file that cannot be read is treated as empty, as in a login session.
                if file.take(MAX_FILE_BYTES).read_to_end(&mut bytes).is_ok() {
                    all.extend(parse(&String::from_utf8_lossy(&bytes)));
                }
            }
            *cached = (versions, Arc::new(all));
        }
        cached.1.clone()
    }
}

/// Opens a regular file. Anything else, such as a pipe that never ends, is treated as missing.
fn open(path: &str) -> Option<(File, Version)> {
    let (file, about) = open_regular(path).ok()?;
    Some((file, version_of(&about)))
}

/// Parses `NAME=value` lines in the format of `pam_env`: an optional `export`, an optional pair of quotes,
/// `#` comments.
fn parse(text: &str) -> impl Iterator<Item = (String, String)> {
    text.lines().filter_map(variable).take(MAX_VARIABLES)
}

fn variable(line: &str) -> Option<(String, String)> {
    let line = line.trim();
    let line = line.strip_prefix("export ").unwrap_or(line).trim_start();
    let (name, value) = line.split_once('=')?;
    let is_name = !name.starts_with(|c: char| c.is_ascii_digit())
        && !name.is_empty()
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    let quoted = |quote: char| value.strip_prefix(quote).and_then(|v| v.strip_suffix(quote));
    let value = quoted('"').or_else(|| quoted('\'')).unwrap_or(value);
    (is_name && !value.contains('\0')).then(|| (name.to_owned(), value.to_owned()))
}

/// Returns the environment of a process of this user.
pub fn of_process(agent: &Agent, user: &User, request: &Variables) -> Variables {
    let (path, lang) = match agent.mode {
        Mode::Pid1 => (None, None),
        Mode::Process => (std::env::var("PATH").ok(), std::env::var("LANG").ok()),
    };
    let mut all = BTreeMap::from([
        ("PATH".to_owned(), path.unwrap_or_else(|| DEFAULT_PATH.to_owned())),
        ("LANG".to_owned(), lang.unwrap_or_else(|| DEFAULT_LANG.to_owned())),
    ]);
    if agent.mode == Mode::Pid1 {
        all.extend(agent.image_variables.read().iter().map(|(name, value)| (name.clone(), value.clone())));
    }
    all.extend([
        ("HOME".to_owned(), user.home.clone()),
        ("USER".to_owned(), user.name.clone()),
        ("LOGNAME".to_owned(), user.name.clone()),
        ("E2B_SANDBOX".to_owned(), "true".to_owned()),
    ]);
    all.extend(agent.settings().env.clone());
    all.extend(request.clone());
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_are_read_as_a_login_session_reads_them() {
        let text = "# a comment\n\nA=1\n export B=\"two words\"\nC='x=y'\nD=\"half\nbad name=1\n1E=1\n=1\nF\nG=\n";
        let found: Variables = parse(text).collect();
        let expected = [("A", "1"), ("B", "two words"), ("C", "x=y"), ("D", "\"half"), ("G", "")];
        assert_eq!(found, expected.map(|(n, v)| (n.to_owned(), v.to_owned())).into());
    }

    #[test]
    fn a_file_gives_a_bounded_number_of_variables() {
        let text = (0..1000).fold(String::new(), |text, i| text + &format!("V{i}=x\n"));
        assert_eq!(parse(&text).count(), MAX_VARIABLES);
    }
}
