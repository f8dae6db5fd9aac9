//! Users and groups, parsed from `/etc/passwd` and `/etc/group`: a static program has no other way.

use std::fmt;
use std::fs;
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::{Arc, Mutex};

use sys::spawn::Ids;

use crate::agent::lock;
use crate::regular_file::{Version, open_regular, version_of};

/// Longest file that is read. Usual ones have a few kilobytes.
const MAX_TABLE_BYTES: u64 = 4 * 1024 * 1024;

/// A user.
#[derive(Clone, Debug)]
pub struct User {
    /// Login name.
    pub name: String,
    /// Home directory.
    pub home: String,
    /// Login shell; empty when the table names none.
    pub shell: String,
    /// User, group and supplementary groups.
    pub ids: Ids,
}

/// Why a user could not be found.
#[derive(Debug)]
pub enum UserError {
    /// The name is not in the table.
    Unknown {
        /// The requested name.
        name: String,
    },
    /// The table cannot be read.
    Unreadable {
        /// The file.
        path: &'static str,
        /// The cause.
        source: io::Error,
    },
}

impl fmt::Display for UserError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown { name } => write!(f, "invalid username: '{name}'"),
            Self::Unreadable { path, source } => write!(f, "cannot read {path}: {source}"),
        }
    }
}

impl std::error::Error for UserError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Unknown { .. } => None,
            Self::Unreadable { source, .. } => Some(source),
        }
    }
}

/// A line of `/etc/passwd`.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Account {
    /// Login name.
    name: String,
    /// User id.
    uid: u32,
    /// Primary group.
    gid: u32,
    /// Home directory.
    home: String,
    /// Login shell; empty when none is named.
    shell: String,
}

/// A line of `/etc/group`.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Group {
    /// Name.
    name: String,
    /// Group id.
    gid: u32,
    /// Login names of members.
    members: Vec<String>,
}

/// Both tables, parsed again only when a file has changed.
#[derive(Debug, Default)]
pub struct Users {
    /// Accounts.
    accounts: Mutex<Table<Account>>,
    /// Groups.
    groups: Mutex<Table<Group>>,
}

/// The lines of a file, and its version.
#[derive(Debug)]
struct Table<T> {
    /// The file's version when the lines were read.
    seen: Option<Version>,
    /// Its lines.
    lines: Arc<Vec<T>>,
}

impl<T> Default for Table<T> {
    fn default() -> Self {
        Self { seen: None, lines: Arc::default() }
    }
}

impl<T> Table<T> {
    fn read(&mut self, path: &'static str, parse: fn(&str) -> Option<T>) -> Result<Arc<Vec<T>>, UserError> {
        let unreadable = |source| UserError::Unreadable { path, source };
        let about = match fs::metadata(path) {
            Ok(about) => about,
            // An image without the file has no such users; the last table must not be used any longer.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                *self = Self::default();
                return Ok(self.lines.clone());
            }
            Err(error) => return Err(unreadable(error)),
        };
        let seen = Some(version_of(&about));
        if self.seen != seen {
            if about.size() > MAX_TABLE_BYTES {
                return Err(unreadable(io::ErrorKind::FileTooLarge.into()));
            }
            let bytes = read_regular(path).map_err(unreadable)?;
            self.lines = Arc::new(String::from_utf8_lossy(&bytes).lines().filter_map(parse).collect());
            self.seen = seen;
        }
        Ok(self.lines.clone())
    }
}

/// Reads a regular file, at most [`MAX_TABLE_BYTES`]. A pipe in its place would never end.
fn read_regular(path: &str) -> io::Result<Vec<u8>> {
    let (file, _) = open_regular(path)?;
    let mut bytes = Vec::new();
    file.take(MAX_TABLE_BYTES).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Parses a number as an id; the largest number is not one, since the kernel treats it as "unchanged".
fn id(text: &str) -> Option<u32> {
    text.parse().ok().filter(|n| *n != u32::MAX && text.bytes().all(|b| b.is_ascii_digit()))
}

fn parse_account(line: &str) -> Option<Account> {
    let mut fields = line.split(':');
    let name = fields.next().filter(|n| !n.is_empty() && !n.starts_with('#'))?.to_owned();
    let uid = fields.nth(1)?.parse().ok()?;
    let gid = fields.next()?.parse().ok()?;
    let home = fields.nth(1).filter(|h| h.starts_with('/')).unwrap_or("/").to_owned();
    let shell = fields.next().map(str::trim).filter(|s| s.starts_with('/')).unwrap_or_default().to_owned();
    Some(Account { name, uid, gid, home, shell })
}

fn parse_group(line: &str) -> Option<Group> {
    let mut fields = line.split(':');
    let name = fields.next().filter(|n| !n.is_empty() && !n.starts_with('#'))?.to_owned();
    let gid = fields.nth(1)?.parse().ok()?;
    let members = fields.next().unwrap_or_default().split(',').map(str::trim);
    Some(Group { name, gid, members: members.filter(|m| !m.is_empty()).map(str::to_owned).collect() })
}

impl Users {
    fn accounts(&self) -> Result<Arc<Vec<Account>>, UserError> {
        lock(&self.accounts).read("/etc/passwd", parse_account)
    }

    fn groups(&self) -> Result<Arc<Vec<Group>>, UserError> {
        lock(&self.groups).read("/etc/group", parse_group)
    }

    /// Returns the user of `user` or `user:group`, each a name or a number, as container images name them.
    ///
    /// `root` exists in every image, listed or not, and so does every number: one that is not listed is in the group
    /// 0 and has the home `/`. A group that is named is the user's only one.
    pub fn find(&self, name: &str) -> Result<User, UserError> {
        let (user, group) = name.split_once(':').map_or((name, None), |(user, group)| (user, Some(group)));
        let account = self.account(user)?;
        let (gid, groups) = match group {
            Some(group) => {
                let gid = self.group_id(group)?.ok_or_else(|| UserError::Unknown { name: name.to_owned() })?;
                (gid, vec![gid])
            }
            None => (account.gid, self.groups_of(&account)?),
        };
        let ids = Ids { uid: account.uid, gid, groups };
        Ok(User { name: account.name, home: account.home, shell: account.shell, ids })
    }

    fn account(&self, user: &str) -> Result<Account, UserError> {
        let accounts = self.accounts()?;
        let uid = id(user);
        let listed = accounts.iter().find(|a| a.name == user).or_else(|| accounts.iter().find(|a| Some(a.uid) == uid));
        if let Some(account) = listed {
            return Ok(account.clone());
        }
        let unlisted =
            |uid, home: &str| Account { name: user.into(), uid, gid: 0, home: home.into(), shell: String::new() };
        match uid {
            _ if user == "root" => Ok(unlisted(0, "/root")),
            Some(uid) => Ok(unlisted(uid, "/")),
            None => Err(UserError::Unknown { name: user.to_owned() }),
        }
    }

    fn groups_of(&self, account: &Account) -> Result<Vec<u32>, UserError> {
        let mut groups = vec![account.gid];
        for group in self.groups()?.iter() {
            if group.gid != account.gid && group.members.contains(&account.name) {
                groups.push(group.gid);
            }
        }
        Ok(groups)
    }

    /// Returns the user and group in whose home this directory is; `None` outside of all homes.
    ///
    /// A home counts only if it belongs to its account. Service accounts often have a directory of root's,
    /// such as `/usr/sbin`.
    pub fn home_owner(&self, directory: &Path) -> Option<(u32, u32)> {
        let accounts = self.accounts().ok()?;
        let mut homes: Vec<_> =
            accounts.iter().filter(|a| a.home.len() > 1 && directory.starts_with(&a.home)).collect();
        homes.sort_by_key(|a| std::cmp::Reverse(Path::new(&a.home).components().count()));
        let home = homes.into_iter().find(|a| fs::metadata(&a.home).is_ok_and(|m| m.is_dir() && m.uid() == a.uid))?;
        Some((home.uid, home.gid))
    }

    /// Whether there is an account with this id.
    pub fn is_listed(&self, uid: u32) -> bool {
        self.accounts().is_ok_and(|accounts| accounts.iter().any(|a| a.uid == uid))
    }

    /// Returns the id of this group, which may also be a number.
    pub fn group_id(&self, name: &str) -> Result<Option<u32>, UserError> {
        Ok(self.groups()?.iter().find(|g| g.name == name).map(|g| g.gid).or_else(|| id(name)))
    }

    /// Returns the name of a user id, or the number if it has none.
    pub fn user_name(&self, uid: u32) -> String {
        let accounts = self.accounts().unwrap_or_default();
        accounts.iter().find(|a| a.uid == uid).map_or_else(|| uid.to_string(), |a| a.name.clone())
    }

    /// Returns the name of a group id, or the number if it has none.
    pub fn group_name(&self, gid: u32) -> String {
        let groups = self.groups().unwrap_or_default();
        groups.iter().find(|g| g.gid == gid).map_or_else(|| gid.to_string(), |g| g.name.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accounts_are_read_and_broken_lines_are_passed_over() {
        let account = parse_account("user:x:1000:1001:A, B:/home/user:/bin/bash").expect("good line");
        let (home, shell) = ("/home/user".into(), "/bin/bash".into());
        assert_eq!(account, Account { name: "user".into(), uid: 1000, gid: 1001, home, shell });
        for line in ["", "# user:x:1:1::/:", "user", "user:x:one:1::/:", ":x:1:1::/:"] {
            assert_eq!(parse_account(line), None, "{line:?}");
        }
        let bare = parse_account("a:x:1:1::relative:").expect("good line");
        assert_eq!((bare.home.as_str(), bare.shell.as_str()), ("/", ""));
    }

    #[test]
    fn a_pipe_is_no_table() {
        let path = std::env::temp_dir().join(format!("passwd-{}", std::process::id()));
        sys::rustix::fs::mkfifoat(sys::rustix::fs::CWD, &path, sys::rustix::fs::Mode::RWXU).expect("a pipe");
        assert!(read_regular(path.to_str().expect("text")).is_err());
        fs::remove_file(&path).expect("clean");
    }

    #[test]
    fn groups_list_their_members() {
        let group = parse_group("sudo:x:27:user, other").expect("good line");
        assert_eq!((group.gid, group.members.as_slice()), (27, &["user".to_owned(), "other".to_owned()][..]));
        assert!(parse_group("empty:x:5:").expect("good line").members.is_empty());
    }

    #[test]
    fn an_unknown_user_is_named_in_the_error() {
        let error = Users::default().find("nobody-here").expect_err("unknown");
        assert_eq!(error.to_string(), "invalid username: 'nobody-here'");
    }

    #[test]
    fn root_is_always_there() {
        assert_eq!(Users::default().find("root").expect("root").ids.uid, 0);
    }

    #[test]
    fn a_number_needs_no_account() {
        let user = Users::default().find("64321").expect("a number");
        assert_eq!((user.ids.uid, user.ids.gid, user.home.as_str()), (64_321, 0, "/"));
    }

    #[test]
    fn a_group_may_be_named_by_name_or_number() {
        let user = Users::default().find("64321:64322").expect("numbers");
        assert_eq!((user.ids.uid, user.ids.gid, user.ids.groups), (64_321, 64_322, vec![64_322]));
        assert!(Users::default().find("root:no-such-group").is_err());
    }
}
