//! Acts as another user in one thread for file operations, so that the kernel checks that user's permissions.

use std::io;
use std::marker::PhantomData;

use crate::check;
use crate::spawn::Ids;

/// The calling thread acts on files as another user until this is dropped.
///
/// Only the file-system ids and the supplementary groups change: the thread can revert the change, and no
/// process of that user can signal or trace it.
#[derive(Debug)]
pub struct ActingAs {
    /// Groups to restore.
    groups: Vec<u32>,
    /// It is bound to its thread.
    _thread: PhantomData<*const ()>,
}

impl ActingAs {
    /// Changes to this user for file operations.
    pub fn user(ids: &Ids) -> io::Result<Self> {
        let before = groups()?;
        set_groups(&ids.groups)?;
        let acting = Self { groups: before, _thread: PhantomData };
        // Group first: without root's fsuid it may be refused.
        set_fs_id(libc::SYS_setfsgid, ids.gid)?;
        set_fs_id(libc::SYS_setfsuid, ids.uid)?;
        Ok(acting)
    }
}

impl Drop for ActingAs {
    fn drop(&mut self) {
        // SAFETY: geteuid and getegid cannot fail.
        let (uid, gid) = unsafe { (libc::geteuid(), libc::getegid()) };
        let back = set_fs_id(libc::SYS_setfsuid, uid)
            .and_then(|()| set_fs_id(libc::SYS_setfsgid, gid))
            .and_then(|()| set_groups(&self.groups));
        if let Err(error) = back {
            // A thread with the wrong ids must not serve anyone else.
            eprintln!("envd: cannot take back the agent's own ids: {error}");
            std::process::abort();
        }
    }
}

/// The kernel returns the former id in any case, so a second call is needed to detect a failure.
fn set_fs_id(call: libc::c_long, id: u32) -> io::Result<()> {
    // SAFETY: takes and returns a number. Raw, so that it holds for this thread only.
    unsafe { libc::syscall(call, id) };
    // SAFETY: as above; -1 is no valid id and changes nothing.
    let now = unsafe { libc::syscall(call, -1_i32) };
    if now as u32 == id { Ok(()) } else { Err(io::Error::from_raw_os_error(libc::EPERM)) }
}

fn groups() -> io::Result<Vec<u32>> {
    // SAFETY: with size 0 nothing is written.
    let count = check(unsafe { libc::syscall(libc::SYS_getgroups, 0, std::ptr::null_mut::<u32>()) })?;
    let mut list = vec![0_u32; count as usize];
    // SAFETY: `list` has room for `count` ids, and this thread's groups do not change in between.
    let count = check(unsafe { libc::syscall(libc::SYS_getgroups, count, list.as_mut_ptr()) })?;
    list.truncate(count as usize);
    Ok(list)
}

fn set_groups(list: &[u32]) -> io::Result<()> {
    // SAFETY: `list` is live for the call. Raw, so that it holds for this thread only.
    check(unsafe { libc::syscall(libc::SYS_setgroups, list.len(), list.as_ptr()) }).map(drop)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_thread_that_acts_as_a_user_may_do_what_the_user_may() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let dir = std::env::temp_dir().join(format!("acting-{}", std::process::id()));
        fs::create_dir(&dir).expect("a folder");
        let secret = dir.join("secret");
        fs::write(&secret, "x").expect("a file");
        fs::set_permissions(&secret, std::os::unix::fs::PermissionsExt::from_mode(0o600)).expect("mode");
        {
            let ids = Ids { uid: 65534, gid: 65534, groups: vec![65534] };
            let _acting = ActingAs::user(&ids).expect("we are root");
            assert!(fs::read(&secret).is_err());
        }
        assert!(fs::read(&secret).is_ok());
        fs::remove_dir_all(&dir).expect("clean");
    }
}
