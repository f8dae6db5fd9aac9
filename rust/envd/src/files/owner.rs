//! Ownership of written files.
//!
//! Files written by a user belong to that user. For files written by root the place decides: an existing file
//! keeps its owner, a new file in a user's home belongs to that user, any other to root. An explicit owner
//! takes precedence.

use std::fs;
use std::os::fd::{AsFd, AsRawFd as _};

use sys::rustix::fs::{Gid, Stat, Uid};
use sys::spawn::Ids;

use crate::agent::Agent;
use crate::files::FilesError;

/// A user id and a group id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner {
    uid: u32,
    gid: u32,
}

impl Owner {
    /// The user's own ids.
    pub fn of(ids: &Ids) -> Self {
        Self { uid: ids.uid, gid: ids.gid }
    }

    /// The owner that an archive says: user id and group id.
    pub fn of_archive((uid, gid): (u32, u32)) -> Self {
        Self { uid, gid }
    }

    /// The owner of an existing file.
    pub fn of_file(about: &Stat) -> Self {
        Self { uid: about.st_uid, gid: about.st_gid }
    }

    /// Returns the owner of a new entry of this open directory that `acting` creates; `None`: `acting`
    /// itself.
    ///
    /// The directory's real path counts, so that a link out of a home does not change ownership elsewhere.
    pub fn of_new_entry(agent: &Agent, acting: &Ids, directory: impl AsFd) -> Option<Self> {
        if acting.uid != 0 {
            return None;
        }
        let path = fs::read_link(format!("/proc/self/fd/{}", directory.as_fd().as_raw_fd())).ok()?;
        agent.users.home_owner(&path).map(|(uid, gid)| Self { uid, gid })
    }

    /// In the types of the system calls.
    pub fn ids(self) -> (Option<Uid>, Option<Gid>) {
        (Some(Uid::from_raw(self.uid)), Some(Gid::from_raw(self.gid)))
    }
}

/// Parses `user`, `user:group`, or numbers instead of the names. The default group is the user's own, and of a number
/// that is not listed the same number.
pub fn parse(agent: &Agent, text: &str) -> Result<Owner, FilesError> {
    let unknown = |what: &str, name: &str| FilesError::Invalid(format!("owner: there is no {what} '{name}'"));
    let (user, group) = text.split_once(':').map_or((text, None), |(user, group)| (user, Some(group)));
    let Ids { uid, gid, .. } = agent.users.find(user).map_err(|_| unknown("user", user))?.ids;
    let gid = match group {
        None if agent.users.is_listed(uid) => gid,
        None => uid,
        Some(group) => agent.users.group_id(group)?.ok_or_else(|| unknown("group", group))?,
    };
    Ok(Owner { uid, gid })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::Mode;

    #[test]
    fn owners_are_names_or_numbers() {
        let agent = Agent::new(Mode::Process);
        let ids = |text: &str| parse(&agent, text).map(|o| (o.uid, o.gid)).ok();
        assert_eq!(ids("root"), Some((0, 0)));
        assert_eq!(ids("0:7"), Some((0, 7)));
        assert_eq!(ids("4242:root"), Some((4242, 0)));
        assert_eq!(ids("4242"), Some((4242, 4242)));
        for wrong in ["", "nobody-here", "root:", "root:no-group", "4294967295", "-1", "+1"] {
            assert_eq!(ids(wrong), None, "{wrong}");
        }
    }
}
