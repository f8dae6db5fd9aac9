//! Limits a process to some system calls.

use std::io;

use crate::check;

const AUDIT_ARCH_X86_64: u32 = 0xC000_003E;
const OFFSET_OF_NUMBER: u32 = 0;
const OFFSET_OF_ARCH: u32 = 4;

/// Kills this process when it makes another system call than these, from now on. All threads must be started later.
pub fn allow_only(calls: &[libc::c_long]) -> io::Result<()> {
    let program = program(calls);
    let header = libc::sock_fprog { len: program.len() as libc::c_ushort, filter: program.as_ptr().cast_mut() };
    // SAFETY: takes numbers alone.
    check(unsafe { libc::syscall(libc::SYS_prctl, libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) })?;
    // SAFETY: `header` and the program that it points to are live; the kernel copies them.
    check(unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0, &raw const header) }).map(drop)
}

fn program(calls: &[libc::c_long]) -> Vec<libc::sock_filter> {
    let load = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
    let equal = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
    let end = (libc::BPF_RET | libc::BPF_K) as u16;
    let step = |code, value, if_true, if_false| libc::sock_filter { code, jt: if_true, jf: if_false, k: value };
    let mut program = vec![
        step(load, OFFSET_OF_ARCH, 0, 0),
        step(equal, AUDIT_ARCH_X86_64, 1, 0),
        step(end, libc::SECCOMP_RET_KILL_PROCESS, 0, 0),
        step(load, OFFSET_OF_NUMBER, 0, 0),
    ];
    for call in calls {
        program.push(step(equal, *call as u32, 0, 1));
        program.push(step(end, libc::SECCOMP_RET_ALLOW, 0, 0));
    }
    program.push(step(end, libc::SECCOMP_RET_KILL_PROCESS, 0, 0));
    program
}
