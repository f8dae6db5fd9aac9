//! Whose a written file becomes.
//!
//! What a user writes belongs to that user. What root writes goes by its place: a file that was there keeps its owner,
//! a new one in somebody's home belongs to that user, and any other to root. A named owner has precedence.

use std::fs;
use std::os::fd::{AsFd, AsRawFd as _};

use sys::rustix::fs::{Gid, Stat, Uid};
use sys::spawn::Ids;

use crate::agent::Agent;
use crate::files::FilesError;

/// A user and a group, by number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner {
    uid: u32,
    gid: u32,
}

impl Owner {
    /// The user himself.
    pub fn of(ids: &Ids) -> Self {
        Self { uid: ids.uid, gid: ids.gid }
    }

    /// The owner that a file has.
    pub fn of_file(about: &Stat) -> Self {
        Self { uid: about.st_uid, gid: about.st_gid }
    }

    /// Whose a new entry of this open directory becomes when `acting` makes it; `None`: whoever acts.
    ///
    /// The directory's real path counts, so a link out of a home gives nothing away.
    pub fn of_new_entry(agent: &Agent, acting: &Ids, directory: impl AsFd) -> Option<Self> {
        if acting.uid != 0 {
            return None;
        }
        let path = fs::read_link(format!("/proc/self/fd/{}", directory.as_fd().as_raw_fd())).ok()?;
        agent.users.home_owner(&path).map(|(uid, gid)| Self { uid, gid })
    }

    /// As the kernel's calls take them.
    pub fn ids(self) -> (Option<Uid>, Option<Gid>) {
        (Some(Uid::from_raw(self.uid)), Some(Gid::from_raw(self.gid)))
    }
}

/// A number that is an id: the last one means "none" to the kernel.
fn id(text: &str) -> Option<u32> {
    text.parse().ok().filter(|n| *n != u32::MAX && text.bytes().all(|b| b.is_ascii_digit()))
}

/// Reads `user`, `user:group`, or numbers in place of the names. Without a group: the user's own.
pub fn parse(agent: &Agent, text: &str) -> Result<Owner, FilesError> {
    let unknown = |what: &str, name: &str| FilesError::Invalid(format!("owner: there is no {what} '{name}'"));
    let (user, group) = text.split_once(':').map_or((text, None), |(user, group)| (user, Some(group)));
    let (uid, own) = match (agent.users.find(user), id(user)) {
        (Ok(found), _) => (found.ids.uid, Some(found.ids.gid)),
        (Err(_), Some(uid)) => (uid, agent.users.find(&agent.users.user_name(uid)).ok().map(|u| u.ids.gid)),
        (Err(_), None) => return Err(unknown("user", user)),
    };
    let gid = match group {
        None => own.unwrap_or(uid),
        Some(group) => agent.users.group_id(group)?.or_else(|| id(group)).ok_or_else(|| unknown("group", group))?,
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
